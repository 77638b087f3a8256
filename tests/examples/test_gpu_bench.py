"""The script for a GPU, which is seldom run, still runs: tiny, on the CPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_parts_run(script, tmp_path):
    bench = script.Bench(rehearse=True)
    bench.rows = 16
    bench.write(tmp_path)
    assert set(script.equality(bench, tmp_path)["values that differ"].values()) == {0}
    assert script.reports(bench, tmp_path) == "no wait"
    found = script.losses(bench, torch.float32)
    assert {"F.cross_entropy", "chunked, as Liger's", "domain_cross_entropy"} <= found.keys()


def test_a_part_that_fails_is_a_result(script):
    bench = script.Bench(rehearse=True)
    bench.part("bad", lambda: 1 / 0)
    bench.part("good", lambda: 1)
    assert bench.failed == ["bad"]
    assert bench.found == {"bad": "ZeroDivisionError: division by zero", "good": 1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_says_so(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert script.main() == 0
    assert capsys.readouterr().out == "skipped: no CUDA device\n"
