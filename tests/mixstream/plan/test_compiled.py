"""Which of a loop and its reference runs: they give equal results, so a call must only ever tell by what it was."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mixstream.plan import compiled, layouts, permutation
from mixstream.plan.compiled import NotCompiledError, OfNumba, beside, compile_loop

ONES = np.ones(3, dtype=np.int64)


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the state of a process that has compiled nothing."""
    monkeypatch.setattr(compiled, "_state", compiled._State())
    return compiled._state


def loop(x_B):
    total = 0
    for i in range(len(x_B)):
        total += x_B[i]
    return total


def make(**options: Any) -> tuple[Any, list[str]]:
    """Return a loop beside a reference, and what has run by which."""
    ran: list[str] = []

    def reference(x_B):
        ran.append("reference")
        return int(x_B.sum())

    inner = compile_loop(loop)

    @beside(reference, **options)
    def both(x_B):
        found = inner(x_B)
        ran.append("loop")
        return int(found)

    return both, ran


def test_the_reference_runs_until_the_loop_is_compiled():
    both, ran = make()
    assert [both(ONES), both(ONES)] == [3, 3]
    compiled.load()
    assert both(ONES) == 3
    assert ran == ["reference", "reference", "loop"]


def test_a_loop_is_compiled_for_all_kinds_of_arguments_that_it_was_called_with():
    inner = compile_loop(loop)
    kinds = ONES, ONES.astype(np.uint16), np.zeros(6, dtype=np.int64)[::2], ONES.copy()
    kinds[3].flags.writeable = False
    for each in (*kinds, *kinds):
        with pytest.raises(NotCompiledError):
            inner(each)
    compiled.load()
    known = set(inner.dispatcher.signatures)
    assert len(known) == 4
    for each in kinds:
        inner(each)
    assert set(inner.dispatcher.signatures) == known, "the first batch after the switch would wait for the compiler"


def test_numba_is_loaded_once_references_have_taken_long_enough(state, monkeypatch):
    both, ran = make()
    begun: list[int] = []
    compiled.load_by(lambda: begun.append(len(ran)), whole=state.whole)
    monkeypatch.setattr(compiled, "_WORTH", 1e9)
    both(ONES)
    assert not begun
    monkeypatch.setattr(compiled, "_WORTH", 0.0)
    both(ONES)
    both(ONES)
    assert begun == [2, 3], "again and again: the thread that it starts may have died with a fork"


def test_without_a_background_the_calling_thread_loads(monkeypatch):
    monkeypatch.setattr(compiled, "_WORTH", 0.0)
    both, ran = make()
    both(ONES)
    both(ONES)
    assert ran == ["reference", "loop"]


def test_a_call_that_is_too_large_for_its_reference_waits_for_numba():
    both, ran = make(small=lambda x_B: len(x_B) <= 3)
    both(ONES)
    both(np.ones(4, dtype=np.int64))
    assert ran == ["reference", "loop"]


BLAS = """
import sys
import numpy as np
from mixstream.plan import compiled
loop = compiled.compile_loop(lambda x: x + 1)
try:
    loop(1)
except compiled.NotCompiledError:
    compiled.load()
before = "scipy.linalg" in sys.modules
import numba
ones = np.ones((2, 2))
print(loop(1), before, numba.njit(lambda a, b: np.dot(a, b))(ones, ones).tolist())
"""


def test_numba_is_loaded_without_blas_and_has_it_where_it_is_used():
    pytest.importorskip("scipy")
    done = subprocess.run([sys.executable, "-c", BLAS], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "2 False [[2.0, 2.0], [2.0, 2.0]]\n"


def test_without_numba_references_run_for_good(monkeypatch):
    def missing() -> None:
        raise ImportError("no wheel for this platform")

    monkeypatch.setattr(compiled, "_import_numba", missing)
    monkeypatch.setattr(compiled, "_WORTH", 0.0)
    both, ran = make(small=lambda x_B: False)
    assert compiled.without() is None
    assert [both(ONES) for _ in range(3)] == [3, 3, 3]
    assert ran == ["reference"] * 3
    assert compiled.without() == "ImportError: no wheel for this platform"
    compiled.compile_at_once()
    both(ONES)
    assert ran == ["reference"] * 4


def test_at_once_a_loop_is_compiled_at_its_first_call():
    compiled.compile_at_once()
    both, ran = make()
    both(ONES)
    assert ran == ["loop"]


TWICE = compile_loop(lambda x: 2 * x)
PI = OfNumba(lambda numba: numba.njit(lambda: 3))


def test_loops_use_other_loops_and_what_numba_makes():
    def outer(x):
        return TWICE(x) + PI()

    inner = compile_loop(outer)
    with pytest.raises(NotCompiledError):
        inner(1)
    compiled.load()
    assert inner(1) == 5


def test_where_numba_fails_references_run_for_good(caplog):
    def wrong(x):
        return x.nothing_of_the_kind

    with pytest.raises(NotCompiledError):
        compile_loop(wrong)(1)
    compiled.load()
    assert "nothing_of_the_kind" in str(compiled.without())
    assert "numba failed, so numpy makes the batches" in caplog.text


def test_errors_of_numba_are_not_hidden_from_tests():
    """They would compare references with themselves."""

    def wrong(x):
        return x.nothing_of_the_kind

    with pytest.raises(NotCompiledError):
        compile_loop(wrong)(1)
    with pytest.raises(Exception, match="nothing_of_the_kind"):
        compiled.compile_at_once()


def test_the_cache_of_a_loop_depends_on_the_files_that_it_uses(monkeypatch):
    """numba compares the time of the loop's own file only."""
    before = layouts._find_windows._of_other_files()
    assert permutation._mix._of_other_files() == ""
    monkeypatch.setattr(inspect, "getsource", lambda module: f"{module} has changed")
    assert layouts._find_windows._of_other_files() != before != ""
