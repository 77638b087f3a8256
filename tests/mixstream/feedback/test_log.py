"""The mixing log: every line whole, the later run wins, and a replay is equal to the bit."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from harness import Tilt, make_dataset, row_ids, write_library
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.feedback.log import MixingLog
from mixstream.feedback.replay import read_log, replay
from mixstream.plan.weights import quantise

NAMES = ("code", "law", "web")
SAMPLES_K = np.array([50, 19, 150])


def weights_at(step):
    """Parts [K] that change every third step."""
    return quantise(np.random.default_rng(step // 3).dirichlet(np.ones(3)))


def begin(journal, step=0, **facts):
    given = {"mixer": "ADO", "lag": 2, "global_batch_size": 8, "samples_K": SAMPLES_K, "row_tokens": 4}
    journal.begin(step=step, **(given | facts))


def write(journal, steps, weights=weights_at, rows=(3, 0, 5)):
    for step in steps:
        rows_K = np.array(rows, dtype=np.float64)
        journal.write(
            step,
            weights_K=weights(step),
            rows_K=rows_K,
            loss_sum_K=rows_K * 4 * (2 + 1 / (1 + step)),
            count_K=rows_K * 4,
        )


@pytest.fixture
def journal(tmp_path):
    with MixingLog(tmp_path / "run", names=NAMES, tensorboard=False) as journal:
        yield journal


def lines_of(journal):
    return [json.loads(line) for line in journal.file.read_text().splitlines()]


def test_lines_are_objects_by_domain_that_any_tool_reads(journal):
    begin(journal)
    write(journal, [0])
    header, step = lines_of(journal)
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


def test_what_is_written_is_read_again(journal):
    begin(journal)
    write(journal, range(5))
    said = read_log(journal.file.parent)
    assert (said.names, said.header.mixer, said.header.lag, said.header.row_tokens) == (NAMES, "ADO", 2, 4)
    assert said.samples_K.tolist() == SAMPLES_K.tolist()
    assert said.step_T.tolist() == list(range(5))
    assert np.array_equal(said.weights_TK, [weights_at(step) for step in range(5)])
    assert said.rows_TK.tolist() == [[3, 0, 5]] * 5
    assert said.loss_TK[:, 0].tolist() == [2 + 1 / (1 + step) for step in range(5)]
    assert np.isnan(said.loss_TK[:, 1]).all()
    assert said.count_TK.tolist() == [[12, 0, 20]] * 5


def test_a_loss_that_is_no_number_is_null_and_steps_may_have_no_loss_at_all(journal):
    begin(journal)
    sums_K = np.array([np.nan, 0, np.inf])
    journal.write(0, weights_K=weights_at(0), rows_K=[3, 0, 5], loss_sum_K=sums_K, count_K=np.array([12.0, 0, 20]))
    journal.write(1, weights_K=weights_at(0), rows_K=[3, 0, 5])
    assert lines_of(journal)[1]["loss"] == {"code": None, "web": None}
    assert "loss" not in lines_of(journal)[2]
    assert np.isnan(read_log(journal.file).loss_TK).all()


def test_validation_losses_are_by_group_and_may_come_before_training(tmp_path):
    with MixingLog(tmp_path / "log.jsonl", names=NAMES, tensorboard=False) as journal:
        begin(journal)
        journal.write_validation(-1, np.array([9.0, np.nan, 8.0]))
        journal.write(0, weights_K=weights_at(0), rows_K=[3, 0, 5], validation_V=np.array([8.0, 7.0, 6.0]))
        journal.write_validation(1, np.array([1.0, 2.0]))
    told = read_log(tmp_path / "log.jsonl").validation
    assert (told[-1]["code"], told[-1]["web"]) == (9.0, 8.0)
    assert np.isnan(told[-1]["law"])
    assert told[0] == {"code": 8.0, "law": 7.0, "web": 6.0}
    assert told[1] == {"group 0": 1.0, "group 1": 2.0}, "groups that are no domains"


def test_explanations_are_written_where_they_change(journal):
    begin(journal)
    told = {"limit": np.array([0.5, np.nan, 1.0]), "round": 0, "A": np.ones((2, 3))}
    for step, change in enumerate([{}, {}, {"round": 1}]):
        journal.write(step, weights_K=weights_at(0), rows_K=[3, 0, 5], explained=told | change)
    plain = {"limit": {"code": 0.5, "law": None, "web": 1.0}, "round": 0, "A": [[1.0] * 3] * 2}
    assert read_log(journal.file).explained == {0: plain, 2: {"round": 1}}
    begin(journal, 2)
    journal.write(2, weights_K=weights_at(0), rows_K=[3, 0, 5], explained=told | {"round": 1})
    assert read_log(journal.file).explained[2] == plain | {"round": 1}, "the line that told it may be cut off"


# --- a run that was cut short -----------------------------------------------------------------------------------------


def test_after_a_resume_the_later_lines_count(journal):
    begin(journal)
    write(journal, range(6))
    journal.write_validation(5, np.ones(3))
    begin(journal, 4, mixer="Aioli")
    write(journal, [4], rows=(8, 0, 0))
    said = read_log(journal.file)
    assert said.step_T.tolist() == [0, 1, 2, 3, 4]
    assert said.rows_TK[4].tolist() == [8, 0, 0]
    assert [header.step for header in said.headers] == [0, 4]
    assert said.header.mixer == "Aioli"
    assert not said.validation


def test_a_run_from_the_start_leaves_nothing_of_the_one_before(journal):
    begin(journal)
    write(journal, range(6))
    begin(journal, 0, global_batch_size=16)
    write(journal, [0])
    said = read_log(journal.file)
    assert (len(said.step_T), len(said.headers), said.header.global_batch_size) == (1, 1, 16)


def test_who_begins_and_goes_on_from_a_checkpoint_instead_leaves_no_trace(journal):
    begin(journal)
    write(journal, range(6))
    begin(journal, 0)
    begin(journal, 4)
    write(journal, [4])
    assert read_log(journal.file).step_T.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(min_value=1))
def test_a_log_torn_at_any_byte_is_read_to_the_last_whole_line_and_gone_on_with(tmp_path_factory, cut):
    file = tmp_path_factory.mktemp("torn") / "mixture.jsonl"
    with MixingLog(file, names=NAMES, tensorboard=False) as journal:
        begin(journal)
        write(journal, range(3))
    whole = file.read_bytes()
    torn = whole[: cut % len(whole)]
    file.write_bytes(torn)
    if steps := torn.count(b"\n"):
        assert len(read_log(file).step_T) == steps - 1
    else:
        with pytest.raises(StateError, match="has not begun"):
            read_log(file)
    with MixingLog(file, names=NAMES, tensorboard=False) as journal:
        begin(journal, max(steps - 1, 0))
        write(journal, range(max(steps - 1, 0), 3))
    assert read_log(file).step_T.tolist() == [0, 1, 2]
    assert np.array_equal(read_log(file).weights_TK, [weights_at(step) for step in range(3)])


def test_a_kill_leaves_every_step_that_was_written(tmp_path):
    """No `close`, no flush at exit: the process ends between two instructions."""
    script = (
        "import os, sys, signal, numpy as np; from mixstream.feedback.log import MixingLog\n"
        "j = MixingLog(sys.argv[1], names=['a', 'b'], tensorboard=False)\n"
        "j.begin(step=0, mixer='x', lag=None, global_batch_size=2, samples_K=np.array([1, 1]))\n"
        "for s in range(7): j.write(s, weights_K=np.array([1 << 31, 1 << 31]), rows_K=[1, 1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert len(read_log(tmp_path).step_T) == 7


def test_a_full_disk_leaves_whole_lines(journal, monkeypatch):
    begin(journal)
    write(journal, [0])
    before, real = journal.file.read_bytes(), os.write

    def fails(fd, data):
        if len(data) > 10:
            return real(fd, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fails)
    with pytest.raises(OSError, match="No space") as caught:
        write(journal, [1])
    assert str(journal.file) in caught.value.__notes__[0]
    assert journal.file.read_bytes() == before
    monkeypatch.undo()
    write(journal, [1])
    assert read_log(journal.file).step_T.tolist() == [0, 1]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path):
    notes = tmp_path / "notes.jsonl"
    notes.write_text("my notes, without a newline")
    with pytest.raises(ConfigError, match="no mixing log"):
        begin(MixingLog(notes, names=NAMES, tensorboard=False))
    assert notes.read_text() == "my notes, without a newline"
    notes.write_text("my notes\n")
    with pytest.raises(ConfigError, match="no mixing log"):
        read_log(notes)


def test_writing_before_the_header_is_refused(journal):
    with pytest.raises(ConfigError, match="begin"):
        write(journal, [0])
    assert not journal.file.exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [lines[0], b"{nothing", *lines[1:]], "line 2 of the log is damaged"),
        (lambda lines: [lines[0], b'{"event":"step","step":"one","weights":{},"rows":{}}', *lines[1:]], "line 2"),
        (lambda lines: [lines[0], lines[0].replace(b'"mixstream":1', b'"mixstream":2')], "version 2"),
        (lambda lines: [lines[0], lines[1].replace(b'"web":0.', b'"web":0.0')], "step 0 are no whole parts"),
    ],
)
def test_damage_is_told_with_its_place(journal, damage, said):
    begin(journal)
    write(journal, range(2))
    journal.file.write_bytes(b"\n".join(damage(journal.file.read_bytes().splitlines())) + b"\n")
    with pytest.raises(StateError, match=said):
        read_log(journal.file)


# --- replay -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, 2**40), min_size=4, max_size=4).filter(any), min_size=1, max_size=6),
    order=st.permutations(range(4)),
)
def test_a_replay_draws_by_the_very_parts_that_were_logged(tmp_path_factory, parts, order):
    names, path = tuple("abcd"), tmp_path_factory.mktemp("log")
    logged = [quantise(weights_K) for weights_K in parts for _ in range(2)]
    with MixingLog(path, names=names, tensorboard=False) as journal:
        begin(journal, samples_K=np.ones(4, dtype=np.int64))
        for step, weights_K in enumerate(logged):
            journal.write(step, weights_K=weights_K, rows_K=np.zeros(4))
    mixer = replay(path)
    asked = tuple(names[k] for k in order)
    for step, weights_K in enumerate(logged):
        assert quantise(mixer.weights_at(step, asked)).tolist() == weights_K[list(order)].tolist()
    assert quantise(mixer.weights_at(10**9, names)).tolist() == logged[-1].tolist()
    assert len(mixer.step_C) <= len(parts)


def test_a_dataset_replays_the_batches_of_the_logged_mixture(tmp_path, journal):
    """The weights of another mixer, which knows them by step, written as a run would have drawn by them."""
    library = write_library(tmp_path / "library")
    schedule = ms.mixers.Schedule(
        {0: {"web": 5, "code": 2, "law": 1}, 6: {"web": 1, "code": 1, "law": 1}, 9: {"web": 1, "code": 0.3, "law": 0}},
        kind="linear",
    )
    begin(journal)
    write(journal, range(20), weights=lambda step: quantise(schedule.weights_at(step, NAMES)))

    def rows(mixer):
        with ms.Loader(make_dataset(library, mixer=mixer)) as loader:
            return [row_ids(batch) for _, batch in zip(range(20), loader)]

    assert rows(replay(journal.file)) == rows(schedule)


def test_a_run_that_learned_is_replayed_without_its_losses(tmp_path):
    library = write_library(tmp_path / "library")

    def rows(mixer, *, log=None):
        taken = []
        with ms.Loader(make_dataset(library, mixer=mixer, lag=4), log=log) as loader:
            for _, batch in zip(range(20), loader):
                taken.append(row_ids(batch))
                if log is not None:
                    loader.report(batch, torch.from_numpy(np.asarray(batch.domain) + 1.0))
        return taken

    learned = rows(Tilt(), log=tmp_path / "run")
    said = read_log(tmp_path / "run")
    assert len(np.unique(said.weights_TK, axis=0)) > 10, "the mixture moved"
    assert said.rows_TK.sum(axis=1).tolist() == [8] * 20
    assert rows(replay(tmp_path / "run")) == learned


def test_a_replay_needs_every_step_from_the_first(journal):
    begin(journal, 3)
    with pytest.raises(StateError, match="the log is empty"):
        replay(journal.file)
    write(journal, [3, 4])
    with pytest.raises(StateError, match="lacks the steps 0 to 2"):
        replay(journal.file)
    journal.file.write_bytes(journal.file.read_bytes().splitlines(keepends=True)[0])  # killed behind the header
    with pytest.raises(StateError, match="no steps yet"):
        replay(journal.file)


def test_domains_that_came_in_mid_run_are_read_and_not_replayed(tmp_path, journal):
    begin(journal)
    write(journal, [0, 1])
    with MixingLog(journal.file, names=("web", "code"), tensorboard=False) as later:
        begin(later, 2, samples_K=np.array([200, 50]))
        later.write(2, weights_K=quantise([3, 1]), rows_K=[6, 2])
    said = read_log(journal.file)
    assert said.rows_TK.tolist() == [[3, 0, 5], [3, 0, 5], [2, 0, 6]]
    assert said.samples_K.tolist() == [50, 19, 200]
    with pytest.raises(StateError, match="domains changed"):
        said.replay()


def test_other_domains_are_named(journal):
    begin(journal)
    write(journal, [0])
    with pytest.raises(ConfigError, match="books"):
        replay(journal.file).weights_at(0, ("books", "code", "web"))


def test_replays_of_other_logs_are_told_apart(tmp_path):
    mixers = []
    for seed in (0, 0, 1):
        with MixingLog(tmp_path / f"{len(mixers)}.jsonl", names=NAMES, tensorboard=False) as journal:
            begin(journal)
            write(journal, range(4), weights=lambda step, seed=seed: weights_at(step + 50 * seed))
        mixers.append(replay(journal.file))
    assert mixers[0] == mixers[1]
    assert repr(mixers[0]) == repr(mixers[1]) != repr(mixers[2])


# --- TensorBoard ------------------------------------------------------------------------------------------------------


@pytest.fixture
def board(monkeypatch):
    """Stand-ins for tensorboard that keep what they are given."""
    kept = {"events": [], "summaries": [], "closed": 0}

    class FileWriter:
        def __init__(self, directory):
            kept["directory"] = directory

        def add_event(self, event, step):
            kept["events"].append((event, step))

        def add_summary(self, summary, step):
            kept["summaries"].append((step, {value.tag: value.simple_value for value in summary.value}))

        def close(self):
            kept["closed"] += 1

    class Summary(types.SimpleNamespace):
        Value = types.SimpleNamespace

    event_pb2 = types.SimpleNamespace(Event=dict, SessionLog=lambda status: status)
    event_pb2.SessionLog = type("SessionLog", (), {"START": 1, "__init__": lambda self, status: None})
    modules = {
        "torch.utils.tensorboard": types.SimpleNamespace(FileWriter=FileWriter),
        "tensorboard": types.ModuleType("tensorboard"),
        "tensorboard.compat": types.ModuleType("tensorboard.compat"),
        "tensorboard.compat.proto": types.SimpleNamespace(
            event_pb2=event_pb2, summary_pb2=types.SimpleNamespace(Summary=Summary)
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return kept


def test_tensorboard_gets_the_same_numbers_every_ten_steps(tmp_path, board):
    """Weights of the tenth step, losses as means over the ten, each term counted once."""
    with MixingLog(tmp_path, names=NAMES) as journal:
        begin(journal, 5)
        for step, (loss, tokens) in zip(range(5, 12), [(8.0, 1), (2.0, 3), *[(np.nan, 4)] * 5]):
            journal.write(
                step,
                weights_K=quantise([step, 11, 10]),
                rows_K=[1, 0, 1],
                loss_sum_K=np.array([loss * tokens, 0, np.nan]),
                count_K=np.array([tokens, 0, 5.0]),
                explained={"rate": 0.5, "limit": np.array([step, 2.0, np.nan]), "A": np.ones((2, 2))},
            )
        journal.write_validation(11, np.array([1.0, 2.0, 3.0]))
    (step, scalars), (validated, validation) = board["summaries"]
    assert (board["directory"], step, validated, board["closed"]) == (str(tmp_path), 10, 11, 1)
    assert [at for _, at in board["events"]] == [5, 5], "what an earlier run wrote of step 5 and later is dropped"
    weights = {f"mixture/weight/{name}": parts / 2**32 for name, parts in zip(NAMES, quantise([10, 11, 10]).tolist())}
    explained = {"mixture/explained/rate": 0.5, "mixture/explained/limit/code": 10, "mixture/explained/limit/law": 2.0}
    assert scalars == weights | explained | {"mixture/loss/code": (8 * 1 + 2 * 3) / 4}
    assert validation == {f"mixture/validation/{name}": k + 1.0 for k, name in enumerate(NAMES)}
    assert len(read_log(tmp_path).step_T) == 7


def test_tensorboard_can_be_left_out(tmp_path, board):
    with MixingLog(tmp_path, names=NAMES, tensorboard=False) as journal:
        begin(journal)
        write(journal, [0])
    assert not board["summaries"]


def test_without_tensorboard_there_is_the_log_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with MixingLog(tmp_path, names=NAMES) as journal:
        begin(journal)
    assert [file.name for file in tmp_path.iterdir()] == ["mixture.jsonl"]
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        MixingLog(tmp_path, names=NAMES, tensorboard=True)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_what_was_written_and_forgets_what_was_cut_short(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((0, 60), (35, 45)):
        with MixingLog(tmp_path, names=NAMES, tensorboard=True) as journal:
            begin(journal, first)
            write(journal, range(first, last))
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    events = seen.Scalars("mixture/weight/web")
    assert [event.step for event in events] == [0, 10, 20, 30, 40]
    assert events[3].value == pytest.approx(weights_at(30)[2] / 2**32)
