"""Packages that import their names on first use."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["mixstream", "mixstream.feedback", "mixstream.plan", "mixstream.selection"])
def test_every_name_is_there_and_no_other(package):
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize(
    ("names", "unneeded"),
    [
        ("mixstream.feedback import FILE, LoggedRun, from_json, read_log", "torch"),
        ("mixstream.feedback import FILE, LoggedRun, from_json, read_log", "numba"),
        ("mixstream.plan import WEIGHT_UNIT, RunState, apportion, parse_state", "torch"),
        ("mixstream.plan import WEIGHT_UNIT, RunState, apportion, parse_state", "numba"),
    ],
)
def test_reading_logs_and_states_imports_nothing_heavy(names, unneeded):
    code = f"import sys; from {names}; sys.exit({unneeded!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
