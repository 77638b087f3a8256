"""bench/peers: the check of what contenders deliver, and the protocol of their processes."""

from __future__ import annotations

import doctest
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path += [str(Path(__file__).parents[2] / "bench" / "peers"), str(Path(__file__).parents[2] / "bench")]

import contender as module  # pyright: ignore[reportMissingImports] - the path is set above
import measure  # pyright: ignore[reportMissingImports]
from contender import Contender, ContenderError  # pyright: ignore[reportMissingImports]
from measure import best  # pyright: ignore[reportMissingImports]
from peer_corpus import DOMAINS, make_corpus, row_sums  # pyright: ignore[reportMissingImports]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_corpus(tmp_path_factory.mktemp("corpus"), rows=256)


def deliver(corpus: Any, batches: int) -> np.ndarray:
    """Return the tokens of some batches of the sampler of our own."""
    draws = corpus.draws(64)
    return np.concatenate([[corpus.tokens(d)[r] for d, r in zip(*next(draws))] for _ in range(batches)])


def test_what_is_in_the_corpus_is_known(corpus: Any) -> None:
    verdict = corpus.verdict(row_sums(deliver(corpus, 8).astype(np.int64)))
    assert (verdict["rows"], verdict["foreign"], verdict["repeated"]) == (512, 0, 0)
    assert verdict["off_weights"] < 0.1
    assert verdict["reach"] > 0.8


def test_a_changed_token_and_two_swapped_ones_are_noticed(corpus: Any) -> None:
    tokens = deliver(corpus, 2)
    tokens[3, 7] += 1
    tokens[5, [0, 1]] = tokens[5, [1, 0]]
    assert corpus.verdict(row_sums(tokens))["foreign"] == 2


def test_rows_that_come_again_and_in_order_are_noticed(corpus: Any) -> None:
    rows = np.concatenate([corpus.tokens(d)[:16] for d in range(DOMAINS)])
    verdict = corpus.verdict(row_sums(np.concatenate([rows, rows])))
    assert verdict["repeated"] == 0.5
    assert verdict["reach"] < 0.3


def test_draws_pass_over_all_rows_before_one_comes_again(corpus: Any) -> None:
    draws, seen = corpus.draws(64), []
    while len(seen) < corpus.rows:
        domain, row = next(draws)
        seen += row[domain == 0].tolist()
    assert len(set(seen[: corpus.rows - 64])) == corpus.rows - 64


SERVER = """
import json, sys, time, subprocess
print(json.dumps({"first": 0.5}), flush=True)
for line in sys.stdin:
    if line.startswith("die"):
        print("the last words", file=sys.stderr); sys.exit(1)
    if line.startswith("worker"):
        subprocess.run([sys.executable, "-c", "import time\\nend = time.time() + .2\\nwhile time.time() < end: pass"])
    if line.startswith("sleep"):
        time.sleep(30)
    print(json.dumps({"asked": line.strip(), "at": time.time()}), flush=True)
"""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "serve.py").write_text(SERVER)
    monkeypatch.setattr(module, "HERE", tmp_path / "a" / "b")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "serve.py").write_text(SERVER)
    cores = sorted(os.sched_getaffinity(0))

    def start(**options: Any) -> Contender:
        return Contender(sys.executable, "fake", tmp_path, "{}", cores=cores, **options)

    return start


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_contender_is_stopped_between_its_turns(serve: Any) -> None:
    with serve() as contender:
        assert contender.answer() == {"first": 0.5}
        until = time.monotonic() + 10
        while state_of(contender._process.pid) != "T" and time.monotonic() < until:
            time.sleep(0.01)
        assert state_of(contender._process.pid) == "T"
        assert contender.ask("go 1")["asked"] == "go 1"


def test_cpu_of_workers_counts(serve: Any) -> None:
    with serve() as contender:
        contender.answer()
        assert contender.ask("worker")["cpu"] > 0


def test_a_contender_that_dies_is_quoted(serve: Any) -> None:
    with serve() as contender:
        contender.answer()
        with pytest.raises(ContenderError, match="fake died: the last words"):
            contender.ask("die")


def test_a_contender_that_hangs_is_given_up(serve: Any) -> None:
    with serve() as contender:
        contender.answer()
        contender.timeout = 0.2
        with pytest.raises(ContenderError, match="did not answer within"):
            contender.ask("sleep")


def test_the_best_setting() -> None:
    swept = [
        {"setting": {"n": 0}, "failed": "no"},
        {"setting": {"n": 1}, "first": 0.2, "rows_per_second": 10.0},
        {"setting": {"n": 2}, "first": 0.1, "rows_per_second": 9.0},
    ]
    assert best(swept, "rows_per_second") == {"n": 1}
    assert best(swept, "first") == {"n": 2}
    assert best(swept[:1], "first") is None


def test_examples() -> None:
    assert doctest.testmod(measure) == doctest.TestResults(failed=0, attempted=2)
