"""Stdout and stderr that are closed, unread or full: every command ends in order, and its status says how."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mixstream as ms
from mixstream_tools.cli import COMMANDS, GROUPS

DRIVER = Path(__file__).with_name("stream_cases.py")
# What is quick enough runs; of the others the help is shown. {n} is another number in each run.
CALLS = {
    "convert": "convert a.txt --out out{n} --seq-len 16 --workers 1",
    "reshard": "reshard data --out shards{n} --workers 1",
    "merge": "merge data data2 --out merged{n}",
    "verify": "verify data --json",
    "inspect": "inspect data --samples 2",
    "plan": "plan --data corpus --json",
    "rows": "rows data --row 3",
    "pack": "pack tokens --out packed{n} --seq-len 16 --pad-id 0 --workers 1",
    "embed": "embed data --model model_of_streams:lengths --out emb{n} --workers 1",
    "select random": "select random data --fraction 0.5 --out random{n}",
    "select stats": "select stats kept",
    "select sample": "select sample kept --json",
    "select export": "select export kept --to kept{n}.jsonl",
    "select verify": "select verify kept",
}
MODEL = "import numpy as np\n\ndef lengths(texts):\n    return np.array([[len(text), 1.0] for text in texts])\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a dataset of texts, one of tokens, a damaged one, a selection, and a model."""
    top = tmp_path_factory.mktemp("streams")
    for name in ("data", "data2", "damaged", "corpus/web/train"):
        with ms.MDSWriter(out=str(top / name), columns={"text": "str"}, hashes=["xxh3_64"], size_limit=400) as writer:
            for row in range(40):
                writer.write({"text": f"text {row} of {name}"})
    shard = top / "damaged" / "shard.00001.mds"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with ms.MDSWriter(out=str(top / "tokens"), columns={"tokens": "ndarray:uint16"}) as writer:
        for row in range(40):
            writer.write({"tokens": np.array([*range(1, 2 + row % 9), 0], np.uint16)})
    (top / "a.txt").write_text("some words " * 50)
    (top / "model_of_streams.py").write_text(MODEL)
    return top


def run(programs: Path, place: Path, cases: list[tuple[str, str, str]]) -> list[tuple[object, str, str]]:
    """Run cases in one process, after one that makes the selection `kept`."""
    cases = [("select random data --fraction 0.5 --out kept --overwrite", "file", "file"), *cases]
    numbered = [(shlex.split(words.format(n=at)), out, err) for at, (words, out, err) in enumerate(cases)]
    done = subprocess.run(
        [programs / "python", DRIVER],
        input=json.dumps(numbered),
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [tuple(each) for each in json.loads(done.stdout)[1:]]


def test_every_command_ends_in_order(warm_programs, place):
    expected = {("unread", "file"): 141, ("full", "file"): 1, ("closed", "closed"): 0}
    cases = [(call, *streams) for call in CALLS.values() for streams in expected]
    cases += [(f"{name} --help", "unread", "file") for name in [*COMMANDS, *GROUPS] if name not in CALLS]
    for (words, out, err), (status, told, said) in zip(cases, run(warm_programs, place, cases), strict=True):
        where = f"{words} with stdout {out} and stderr {err}: {told} {said}"
        assert status == expected[out, err], where
        assert ("stdout cannot be written: No space left on device" in said) == (out == "full"), where
        assert "Traceback" not in said, where


def test_the_status_of_a_command_stays(warm_programs, place):
    """A fault that was found, and wrong use, are not hidden by a pipe, and nobody need listen."""
    words = {"verify damaged": 1, "verify nowhere": 2, "vreify": 2, "convert": 2, "inspect data --no-such": 2}
    streams = [("unread", "file"), ("full", "full"), ("closed", "closed"), ("file", "closed"), ("file", "unread")]
    cases = [(f"{call}{option}", *each) for call in words for option in ("", " --json") for each in streams]
    for (call, out, err), (status, told, said) in zip(cases, run(warm_programs, place, cases), strict=True):
        where = f"{call} with stdout {out} and stderr {err}: {told} {said}"
        assert status == words[call.removesuffix(" --json")], where
        assert "Traceback" not in said, where
        if "--json" in call and out == "file":
            assert json.loads(told), where


def test_results_reach_stdout_whatever_stderr_is(warm_programs, place):
    """Progress and notes are dropped: the work is done, and its result is whole."""
    kinds = ("file", "closed", "unread", "full")
    calls = ["inspect data --json", "convert a.txt --out quiet{n} --seq-len 16 --workers 1 --json", "--version"]
    cases = [(call, "file", err) for call in calls for err in kinds]
    for (call, _, err), (status, told, said) in zip(cases, run(warm_programs, place, cases), strict=True):
        assert (status, bool(told)) == (0, True), f"{call} with stderr {err}: {said}"
        if "--json" in call:
            assert json.loads(told)
    assert len(list(place.glob("quiet*/a/train/index.json"))) == len(kinds)


def test_an_unread_command_has_done_its_work(warm_programs, place):
    """`mixstream convert … | head -1` in a shell, in which a name that is no text of the locale is printed."""
    (place / "ä.txt").write_text("some words " * 50)
    script = "set -o pipefail; mixstream convert ä.txt --out piped --seq-len 16 --workers 1 | (exec <&-; sleep 0)"
    path = f"{warm_programs}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 141), done.stderr  # 0 if the pipe had taken it all before it was closed
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert (place / "piped/ä/train/index.json").exists()


def test_no_file_gets_the_number_of_a_closed_stream(warm_programs):
    """What a library prints would go into that file."""
    script = (
        "import os, sys, subprocess; from mixstream_tools.standard_streams import Outputs; outputs = Outputs();"
        "file = open(os.devnull); assert file.fileno() > 2, file.fileno();"
        "assert os.get_inheritable(1) and not os.system('echo printed');"
        "print('dropped'); sys.exit(outputs.status(0))"
    )
    words = f"{shlex.quote(str(warm_programs / 'python'))} -c {shlex.quote(script)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", words], check=False).returncode == 0
