"""The mixing log: every line whole, and the later run wins."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixing_logs import NAMES, SAMPLES_K, begin, open_log, weights_at, write

from mixstream.errors import ConfigError, StateError, StoreError
from mixstream.feedback.log import MixingLog
from mixstream.feedback.replay import read_log


def lines_of(log):
    return [json.loads(line) for line in log.file.read_text().splitlines()]


def test_lines_are_objects_by_domain_that_any_tool_reads(log):
    begin(log)
    write(log, [0])
    header, step = lines_of(log)
    assert header.pop("time") > 0
    assert header == {
        "event": "begin",
        "mixstream": 1,
        "step": 0,
        "domains": list(NAMES),
        "mixer": "ADO",
        "lag": 2,
        "global_batch_size": 8,
        "row_tokens": 4,
        "samples": {"code": 50, "law": 19, "web": 150},
    }
    assert step["event"] == "step"
    assert sum(step["weights"].values()) == 1.0
    assert step["rows"] == {"code": 3, "web": 5}
    assert step["loss"] == {"code": 3.0, "web": 3.0}
    assert step["count"] == {"code": 12.0, "web": 20.0}


def test_what_is_written_is_read_again(log):
    begin(log)
    write(log, range(5))
    said = read_log(log.file.parent)
    assert (said.names, said.header.mixer, said.header.lag, said.header.row_tokens) == (NAMES, "ADO", 2, 4)
    assert said.samples_K.tolist() == SAMPLES_K.tolist()
    assert said.step_T.tolist() == list(range(5))
    assert np.array_equal(said.weights_TK, [weights_at(step) for step in range(5)])
    assert said.rows_TK.tolist() == [[3, 0, 5]] * 5
    assert said.loss_TK[:, 0].tolist() == [2 + 1 / (1 + step) for step in range(5)]
    assert np.isnan(said.loss_TK[:, 1]).all()
    assert said.count_TK.tolist() == [[12, 0, 20]] * 5


def test_a_loss_that_is_no_number_is_null_and_steps_may_have_no_loss_at_all(log):
    begin(log)
    sums_K = np.array([np.nan, 0, np.inf])
    log.write(0, weights_K=weights_at(0), rows_K=[3, 0, 5], loss_sum_K=sums_K, count_K=np.array([12.0, 0, 20]))
    log.write(1, weights_K=weights_at(0), rows_K=[3, 0, 5])
    assert lines_of(log)[1]["loss"] == {"code": None, "web": None}
    assert "loss" not in lines_of(log)[2]
    assert np.isnan(read_log(log.file).loss_TK).all()


def test_validation_losses_are_by_group_and_may_come_before_training(tmp_path):
    with open_log(tmp_path / "log.jsonl") as log:
        begin(log)
        log.write_validation(-1, np.array([9.0, np.nan, 8.0]))
        log.write(0, weights_K=weights_at(0), rows_K=[3, 0, 5])
        log.write_validation(0, np.array([8.0, 7.0, 6.0]))
        log.write_validation(1, np.array([1.0, 2.0]))
    found = read_log(tmp_path / "log.jsonl").validation
    assert (found[-1]["code"], found[-1]["web"]) == (9.0, 8.0)
    assert np.isnan(found[-1]["law"])
    assert found[0] == {"code": 8.0, "law": 7.0, "web": 6.0}
    assert found[1] == {"group 0": 1.0, "group 1": 2.0}, "groups that are no domains"


def test_explanations_are_written_where_they_change(log):
    begin(log)
    explained = {"limit": np.array([0.5, np.nan, 1.0]), "round": 0, "A": np.ones((2, 3))}
    for step, change in enumerate([{}, {}, {"round": 1}]):
        log.write(step, weights_K=weights_at(0), rows_K=[3, 0, 5], explained=explained | change)
    plain = {"limit": {"code": 0.5, "law": None, "web": 1.0}, "round": 0, "A": [[1.0] * 3] * 2}
    assert read_log(log.file).explained == {0: plain, 2: {"round": 1}}
    begin(log, 2)
    log.write(2, weights_K=weights_at(0), rows_K=[3, 0, 5], explained=explained | {"round": 1})
    assert read_log(log.file).explained[2] == plain | {"round": 1}, "the line that had it may be cut off"


# --- a run that was cut short -----------------------------------------------------------------------------------------


def test_after_a_resume_the_later_lines_count(log):
    begin(log)
    write(log, range(6))
    log.write_validation(5, np.ones(3))
    begin(log, 4, mixer="Aioli")
    write(log, [4], rows=(8, 0, 0))
    said = read_log(log.file)
    assert said.step_T.tolist() == [0, 1, 2, 3, 4]
    assert said.rows_TK[4].tolist() == [8, 0, 0]
    assert [header.step for header in said.headers] == [0, 4]
    assert said.header.mixer == "Aioli"
    assert not said.validation


def test_a_run_from_the_start_leaves_nothing_of_the_one_before(log):
    begin(log)
    write(log, range(6))
    begin(log, 0, global_batch_size=16)
    write(log, [0])
    said = read_log(log.file)
    assert (len(said.step_T), len(said.headers), said.header.global_batch_size) == (1, 1, 16)


def test_who_begins_and_goes_on_from_a_checkpoint_instead_leaves_no_trace(log):
    begin(log)
    write(log, range(6))
    begin(log, 0)
    begin(log, 4)
    write(log, [4])
    assert read_log(log.file).step_T.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(min_value=1))
def test_a_log_torn_at_any_byte_is_read_to_the_last_whole_line_and_gone_on_with(tmp_path_factory, cut):
    file = tmp_path_factory.mktemp("torn") / "mixture.jsonl"
    with open_log(file) as log:
        begin(log)
        write(log, range(3))
    whole = file.read_bytes()
    torn = whole[: cut % len(whole)]
    file.write_bytes(torn)
    if steps := torn.count(b"\n"):
        assert len(read_log(file).step_T) == steps - 1
    else:
        with pytest.raises(StateError, match="has not begun"):
            read_log(file)
    with open_log(file) as log:
        begin(log, max(steps - 1, 0))
        write(log, range(max(steps - 1, 0), 3))
    assert read_log(file).step_T.tolist() == [0, 1, 2]
    assert np.array_equal(read_log(file).weights_TK, [weights_at(step) for step in range(3)])


def test_a_kill_leaves_every_step_that_was_written(tmp_path):
    """No `close`, no flush at exit: the process ends between two instructions."""
    script = (
        "import os, sys, signal, numpy as np; from mixstream.feedback.log import MixingLog\n"
        "j = MixingLog(sys.argv[1], names=['a', 'b'])\n"
        "j.begin(step=0, mixer='x', lag=None, global_batch_size=2, row_tokens=None, samples_K=np.array([1, 1]))\n"
        "for s in range(7): j.write(s, weights_K=np.array([1 << 31, 1 << 31]), rows_K=[1, 1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert len(read_log(tmp_path).step_T) == 7


def test_a_full_disk_leaves_whole_lines(log, monkeypatch):
    begin(log)
    write(log, [0])
    before, real = log.file.read_bytes(), os.write

    def fails(fd, data):
        if len(data) > 10:
            return real(fd, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fails)
    with pytest.raises(StoreError, match=r"mixture.jsonl: could not write it: No space.*inodes free") as caught:
        write(log, [1])
    assert str(log.file) in caught.value.__notes__[0]
    assert log.file.read_bytes() == before
    monkeypatch.undo()
    write(log, [1])
    assert read_log(log.file).step_T.tolist() == [0, 1]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path):
    notes = tmp_path / "notes.jsonl"
    notes.write_text("my notes, without a newline")
    with pytest.raises(ConfigError, match="not a mixing log"):
        begin(MixingLog(notes, names=NAMES))
    assert notes.read_text() == "my notes, without a newline"
    notes.write_text("my notes\n")
    with pytest.raises(ConfigError, match="not a mixing log"):
        read_log(notes)


@pytest.mark.parametrize("kind", ["pipe", "directory", "below a file"])
def test_what_cannot_be_a_log_is_named_and_nothing_hangs(tmp_path, kind):
    file = tmp_path / "log.jsonl"
    if kind == "below a file":
        file.write_bytes(b"")
        file = file / "log.jsonl"
    else:
        os.mkfifo(file) if kind == "pipe" else file.mkdir()
    told = {"pipe": "not a mixing log", "directory": "EISDIR", "below a file": "log.jsonl is no directory; remove it"}
    with pytest.raises((ConfigError, StoreError), match=rf"{file}.*{told[kind]}"):
        begin(MixingLog(file, names=NAMES))


def test_writing_before_the_header_is_refused(log):
    with pytest.raises(ConfigError, match="begin"):
        write(log, [0])
    assert not log.file.exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [lines[0], b"{nothing", *lines[1:]], "line 2 of the log is damaged"),
        (lambda lines: [lines[0], b'{"event":"step","step":"one","weights":{},"rows":{}}', *lines[1:]], "line 2"),
        (lambda lines: [lines[0], lines[0].replace(b'"mixstream":1', b'"mixstream":2')], "version 2"),
        (lambda lines: [lines[0], lines[1].replace(b'"web":0.', b'"web":0.0')], "step 0 are not multiples of"),
    ],
)
def test_damage_is_told_with_its_place(log, damage, said):
    begin(log)
    write(log, range(2))
    log.file.write_bytes(b"\n".join(damage(log.file.read_bytes().splitlines())) + b"\n")
    with pytest.raises(StateError, match=said):
        read_log(log.file)
