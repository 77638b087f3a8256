"""Fixtures of all tests. Helpers that tests of `mixstream` share are in `mixstream/harness.py`."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing.spawn
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from uuid import uuid4

import botocore.loaders
import hypothesis
import pytest

sys.path.append(str(Path(__file__).parent / "mixstream"))  # so that tests, and the workers they spawn, find the harness

from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports] - the path is set above
from harness import write_library  # pyright: ignore[reportMissingImports]
from servers import S3, environment, seaweed  # pyright: ignore[reportMissingImports]
from warm import warm  # pyright: ignore[reportMissingImports]

# A gate is no lottery: the same examples each time. HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
_FIND = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # whether a test fails, without looking for a small case
hypothesis.settings.register_profile("mutants", derandomize=True, deadline=None, phases=_FIND)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` means: a process more than there are cores, since tests wait for stores and processes."""
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is imported out of garbage collections, which take half a second each and copy pages of a fork."""
    gc.disable()
    try:
        with _rewriting_once():
            return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of trainers behind those of loaders: these fork, and transformers and Lightning are 200 MB."""
    trainers = [item for item in items if "/integrations/" in item.nodeid]
    others = [item for item in items if "/integrations/" not in item.nodeid]
    at = max((number for number, item in enumerate(others, 1) if "/loader/" in item.nodeid), default=0)
    items[:] = [*others[:at], *trainers, *others[at:]]


@contextmanager
def _rewriting_once() -> Iterator[None]:
    """Let one worker rewrite the assertions of all tests, 7 s of CPU; the others read what it has written."""
    with pytest.MonkeyPatch.context() as patched, Path(__file__).open("rb") as locked:
        try:
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(locked, fcntl.LOCK_SH)  # when the first is done, and all others together
        patched.setattr(sys, "dont_write_bytecode", False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _disk_of_memory() -> Iterator[None]:
    """Let files count as written to the disk at once: tests cut no power, and a kill leaves what was written."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: os.fstat(file) and None)  # which refuses what is no open file
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Test the compiled loops, not the references that run first; tests of these start processes of their own."""
    from mixstream.plan.compiled import compile_at_once

    compile_at_once()


@pytest.fixture(scope="session", autouse=True)
def _parsed_once() -> Iterator[None]:
    """Let sessions of botocore share what they parse of its data files, 80 of the 100 ms that a client of S3 takes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("botocore.session.create_loader", cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests decide for themselves what world they run in."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of three small domains, `harness.SIZES`; read only."""
    return write_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="session")
def warm_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a directory of `python`, `mixstream` and `torchrun` that start at once (`warm.py`), to be put into PATH."""
    with warm(tmp_path_factory.mktemp("warm")) as programs:
        yield programs


@pytest.fixture
def warm_spawn(warm_programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `multiprocessing` start what it spawns, and its fork server, by `warm_programs`."""
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(warm_programs / "python"))
    forkserver._forkserver._stop()  # type: ignore[attr-defined] - one of another test has that one's environment


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """Yield the S3 server of this test session, which all its workers share; tests want `s3` or `proxy`."""
    base = tmp_path_factory.getbasetemp()
    with seaweed(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """Return an empty place on the S3 server, and let s3:// URLs of this test and its children mean that server."""
    for name, value in environment(s3_server.endpoint).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return replace(s3_server, prefix=uuid4().hex[:12])


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Yield a proxy before the S3 server, and let s3:// URLs go through it; `s3`'s own methods go past it."""
    with FaultProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.endpoint)
        yield proxy
