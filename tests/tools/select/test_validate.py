"""`select validate`: the user's own training on subsets and controls, and what its losses say of the scores."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes

TRAIN = """
import json, sys
import numpy as np
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
counts = np.load(arguments["--selection"] + "/counts.npy")[:, 0]  # without the library, so that it starts quickly
rows = np.load(arguments["--selection"] + "/rows.npy") + np.repeat([0, 10], counts)  # shards of 10 and 30 rows
open(sys.argv[0] + ".log", "a").write(arguments["--seed"] + "\\n")
effect = {effect}
print("trained on", len(rows))
json.dump({{"loss": 10 - sum(effect(int(row)) for row in rows) / 100, "other": 1}}, open(arguments["--out"], "w"))
"""


@pytest.fixture
def scores(write_scores):
    return write_scores("scores", {"score": np.arange(40, dtype=np.float32)}, samples=[10, 30])


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A command whose loss falls by the effect of every row that it is trained on."""
    monkeypatch.chdir(tmp_path)

    def command(effect: str, end: str = "") -> str:
        (tmp_path / "train.py").write_text(TRAIN.format(effect=effect) + end)
        words = [sys.executable, str(tmp_path / "train.py")]
        return f"{shlex.join(words)} --selection {{selection}} --out {{out}} --seed {{seed}}"

    return command


SIZES = ["--subsets", "3", "--seeds", "1", "--fraction", "0.25"]
OPTIONS = [*SIZES, "--work", "work", "--workers", "2"]


def test_perfect_scores_predict_the_losses(select, shown, scores, train, tmp_path) -> None:
    command = train("lambda row: row")
    status, document = select("validate", scores, "--train-cmd", command, *OPTIONS)
    assert status == 0, document
    assert document["lds"] == 1.0
    losses = {kind: each["mean"] for kind, each in document["controls"].items()}
    assert losses["selected"] == pytest.approx(10 - sum(range(30, 40)) / 100)
    assert losses["inverse"] == pytest.approx(10 - sum(range(10)) / 100)
    assert losses["selected"] < losses["random"] < losses["inverse"]
    assert len({run["predicted"] for run in document["runs"]}) == 6
    ran = Path("train.py.log").read_text()
    text = shown("validate", scores, "--train-cmd", command, *OPTIONS)
    assert Path("train.py.log").read_text() == ran  # no run is repeated
    assert "LDS over 3 subsets: 1.000" in text
    assert "fewer than 20 subsets that is noise: the standard deviation by chance is 0.71" in text
    assert document["lds_by_chance"] == pytest.approx(0.5**0.5)
    assert json.loads(Path("work/selected-000/run.json").read_text())["loss"] == losses["selected"]
    assert "trained on 10" in Path("work/selected-000/log.txt").read_text()
    select("validate", scores, "--train-cmd", command, *OPTIONS, "--seed", "7")
    assert len(Path("train.py.log").read_text()) > len(ran)


def test_wrong_scores_lose_against_chance(select, shown, scores, train) -> None:
    command = train("lambda row: -row")
    text = shown("validate", scores, "--train-cmd", command, *OPTIONS)
    assert "LDS over 3 subsets: -1.000" in text
    assert "no better than random" in text
    _, document = select("validate", scores, "--train-cmd", command, *OPTIONS, "--side", "low")
    assert document["lds"] == 1.0


def test_a_dry_run_lists_the_runs(select, scores, train) -> None:
    status, document = select("validate", scores, "--train-cmd", train("abs"), *OPTIONS, "--dry-run")
    assert status == 0
    assert [(run["name"], run["rows"]) for run in document["runs"]] == [
        *((f"subset-{at:03}", 20) for at in range(3)),
        *((f"{kind}-000", 10) for kind in ("selected", "random", "inverse")),
    ]
    assert not Path("work").exists()


@pytest.mark.parametrize(
    ("end", "options", "expected"),
    [
        ("raise SystemExit('out of memory')", [], "ended with status 1"),
        ("json.dump({'loss': float('nan')}, open(arguments['--out'], 'w'))", [], "no finite number"),
        ("", ["--loss-key", "loss_target"], "'loss_target'"),
    ],
)
def test_a_training_that_fails_is_named(select, scores, train, end, options, expected) -> None:
    status, document = select("validate", scores, "--train-cmd", train("abs", end), *SIZES, "--work", "work", *options)
    assert status == 1
    assert expected in document["error"]["message"]
    if end.startswith("raise"):
        assert "out of memory" in document["error"]["notes"][0]


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("python t.py --out {out}", [], "{selection}"),
        ("python t.py {selection} {out} {model}", [], "{model}"),
        ("python 't.py {selection} {out}", [], "quot"),
        ("/nowhere/python {selection} {out}", [], "/nowhere/python"),
        ("python {selection} {out}", ["--seeds", "1", "--fraction", "1"], "--fraction 1"),
        ("python {selection} {out}", ["--subsets", "2"], "--subsets 2"),
        ("python {selection} {out}", ["--subsets", "0", "--seeds", "0"], "at least one"),
    ],
)
def test_wrong_use_is_named(select, scores, train, command, options, expected) -> None:
    sizes = options or SIZES
    status, document = select("validate", scores, "--train-cmd", command, "--work", "work", *sizes)
    assert status == 2
    assert expected in document["error"]["message"]


def test_other_trainings_end_when_one_fails(select, scores, train) -> None:
    end = "import time\nif arguments['--seed'] == '0': sys.exit(3)\ntime.sleep(60)"
    start = time.monotonic()
    status, _ = select("validate", scores, "--train-cmd", train("abs", end), *OPTIONS)
    assert status == 1
    assert time.monotonic() - start < 30
    assert not Path("work/subset-001/run.json").exists()
