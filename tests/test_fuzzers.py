"""The fuzzers of tests/fuzz still run: a few cases of each, in this process. `make fuzz` runs many."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parent / "fuzz"
KINDS = {"index": 3, "log": 3, "packing": 3, "selection": 3, "shard": 3, "state": 10, "tokens": 4}
"""Cases of each."""


@pytest.fixture(scope="module")
def worker() -> Any:
    """Return the module that runs a case."""
    spec = importlib.util.spec_from_file_location("fuzz_worker", FUZZ / "_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_fuzzer_is_tried():
    assert {file.stem for file in FUZZ.glob("[a-z]*.py")} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_cases_have_no_finding(worker: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.path", list(sys.path))
    case, prepare = worker.load(kind)
    for seed in range(KINDS[kind]):
        place = tmp_path / str(seed)
        place.mkdir()
        if prepare is not None:
            prepare(seed)
        found = worker.run(case, seed, place)
        assert not found["failure"], found["failure"]
        assert found["word"].isprintable()
