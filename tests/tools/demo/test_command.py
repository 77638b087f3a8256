"""`mixstream demo` from the outside: once for real, with few steps, and what it says when it cannot be."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mixstream.feedback.replay import read_log
from mixstream_tools.cli import main
from mixstream_tools.demo.text import gather

STEPS = 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One demo, run as one would; its directory and what came of it."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "mixstream_tools.cli", "demo", "--out", str(out), "--steps", str(STEPS), "--json"]
    return out, subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def test_batches_are_equal_across_the_kill_and_the_other_world_size(finished):
    _, done = finished
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["equal"] is True
    assert told["processes"] == [1, 2]
    assert (told["batches_differing"], told["weights_differing"], told["steps_not_once"]) == ([], [], [])
    assert told["killed_after"] > told["resumed_from"] > 0
    assert told["steps_trained_again"] == told["killed_after"] - told["resumed_from"]
    assert told["batches_compared"] == STEPS + told["steps_trained_again"]
    assert told["rows_compared"] == 32 * told["batches_compared"]
    assert len(told["domains"]) >= 2
    assert sum(domain["rows_read"] for domain in told["domains"].values()) == 32 * STEPS
    assert all(Path(told["code"]).read_text().count(word) for word in ("loader.report(batch, loss)", "torch.save("))


def test_the_run_is_mixed_by_ado_and_leaves_a_log_of_every_step(finished):
    out, done = finished
    told = json.loads(done.stdout)
    assert told["mixer"]["name"] == "ADO"
    recorded = read_log(out / "run")
    assert (recorded.header.mixer, recorded.header.step) == ("ADO", told["resumed_from"])
    assert recorded.step_T.tolist() == list(range(STEPS))
    assert np.isfinite(recorded.loss_TK).any(axis=1).all()
    # So short a run has no law, and says so; its weights are the domains' sizes.
    assert told["weights_change_at_step"] is None
    assert all(domain["law"] is None for domain in told["domains"].values())
    sizes = {name: domain["rows"] for name, domain in told["domains"].items()}
    for name, domain in told["domains"].items():
        assert domain["weight"] == pytest.approx([sizes[name] / sum(sizes.values())] * 2, abs=1e-4)


def test_the_log_is_one_that_mixstream_plan_reads(finished, capsys):
    out, _ = finished
    assert main(["plan", str(out / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


def test_a_second_demo_finds_the_same_text_and_converts_nothing(finished):
    out, _ = finished
    before = {file: file.stat().st_mtime_ns for file in (out / "text").iterdir()}
    found = gather(out / "text")
    assert {file: file.stat().st_mtime_ns for file in found.files.values()} == before
    for name, file in found.files.items():
        texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
        assert len(set(texts)) == len(texts)
        assert sum(len(text.encode()) for text in texts) == found.sizes[name]


def test_the_picture_is_where_it_says(finished):
    out, done = finished
    pytest.importorskip("matplotlib")
    picture = Path(json.loads(done.stdout)["picture"])
    assert picture.parent == out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_people_get_one_line_a_step_and_no_control_characters(finished):
    _, done = finished
    assert [line[:3] for line in done.stderr.splitlines() if re.match(r"\d/5 ", line)] == [
        f"{n}/5" for n in range(1, 6)
    ]
    assert "\x1b" not in done.stderr
    assert all(len(line) <= 80 for line in done.stderr.splitlines() if re.match(r"\d/5 ", line))


def test_the_training_process_died_of_sigkill(finished):
    """Its step log ends at the kill, and its log has no word of it: no handler ran."""
    out, done = finished
    told = json.loads(done.stdout)
    assert len((out / "run" / "before-0.jsonl").read_text().splitlines()) == told["killed_after"]
    assert (out / "run" / "before-0.log").read_text() == ""
    assert {file.name for file in (out / "run").glob("after-*.jsonl")} == {"after-0.jsonl", "after-1.jsonl"}


def test_too_few_steps_are_refused_before_anything_is_written(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "out"), "--steps", "7"]) == 2
    assert "--steps 7" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_are_frozen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["demo", "--help"]) == 0
    told = capsys.readouterr().out
    shown = set(re.findall(r"(?<![\w-])--[a-z-]+(?= )", told[told.index("Parameters") :]))
    assert shown == {"--out", "--steps", "--seed", "--json"}
