"""A forked child of a process that has loaders is refused at once, or works; it never hangs, nor disturbs its parent.

Children are forked while another thread of the parent holds a lock, as may happen at any time.
"""

from __future__ import annotations

import gc
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import in_child
from harness import Tilt, joined, make_dataset, row_ids

import mixstream as ms
from mixstream.errors import ForkedError
from mixstream.feedback.log import MixingLog

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*use of fork.. may lead to deadlocks", "ignore:.*fork:DeprecationWarning"
)


@contextmanager
def held(*locks: Any) -> Iterator[None]:
    """Let another thread hold `locks` during the block."""
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.__enter__()
        holds.set()
        done.wait()
        for lock in locks:
            lock.__exit__(None, None, None)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def outcomes(calls: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """Return the error of each call, by name."""
    found = {}
    for name, call in calls.items():
        try:
            found[name] = f"returned {type(call()).__name__}"
        except ForkedError as error:
            found[name] = str(error)
    return found


def losses_of(batch: Any) -> torch.Tensor:
    return batch["tokens"][:, 0] / 64


@pytest.mark.parametrize("at", ["rest", "work"])
def test_a_loader_in_use_is_refused_in_a_child_and_goes_on_in_its_parent(library, tmp_path, at):
    with ms.Loader(make_dataset(library, mixer=Tilt(), lag=8), prefetch=2, log=tmp_path) as loader:
        batches = iter(loader)
        for _ in range(3):
            loader.report(batch := next(batches), losses_of(batch))
        state, batch = loader.state_dict(), next(batches)
        written = (tmp_path / "mixture.jsonl").read_bytes()
        calls = {
            "next": lambda: next(batches),
            "iter": lambda: next(iter(loader)),
            "report": lambda: loader.report(batch, losses_of(batch)),
            "report_sums": lambda: loader.report_sums(3, np.ones(3), np.ones(3)),
            "state_dict": loader.state_dict,
            "load_state_dict": lambda: loader.load_state_dict(state),
            "set_epoch": lambda: loader.set_epoch(3),
            "skip": lambda: loader.skip(3),
        }
        well = {"describe": loader.describe, "close": loader.close, "repr": lambda: repr(loader), "exit": gc.collect}
        assert loader._running is not None
        session = loader._place.session
        assert session is not None
        background = session.collector._background
        locks = [loader._lock, session.collector._lock, background._change, loader._running.prefetcher._change]
        with held(*locks if at == "work" else ()):
            refused, worked = in_child(lambda: (outcomes(calls), outcomes(well)))
        assert all("belongs to process" in said and "forked child of it" in said for said in refused.values()), refused
        assert all(said.startswith("returned") for said in worked.values()), worked
        assert (tmp_path / "mixture.jsonl").read_bytes() == written
        loader.report(batch, losses_of(batch))
        rows = [row_ids(batch)]
        for batch in batches:
            rows.append(row_ids(batch))
            loader.report(batch, losses_of(batch))
    with ms.Loader(make_dataset(library, mixer=Tilt(), lag=8)) as loader:
        undisturbed = []
        for batch in loader:
            undisturbed.append(row_ids(batch))
            loader.report(batch, losses_of(batch))
    assert rows == undisturbed[3:]


def test_a_loader_that_was_not_used_works_in_a_child_and_in_its_parent(library, tmp_path):
    """As where ranks are forked, in notebooks: what they find out about themselves counts."""
    for kind in (ms.Loader, ms.StreamingDataLoader):
        loader: Any = kind(make_dataset(library, mixer=Tilt(), lag=8), log=tmp_path / kind.__name__)

        def epoch(loader: Any = loader) -> list[list[int]]:
            rows = []
            for batch in loader:
                rows.append(row_ids(batch))
                loader.report(batch, losses_of(batch))
            return rows

        with held(loader._lock, loader._place.session.collector._lock):
            rows = in_child(epoch)
        assert rows == epoch()
        loader._place.session.end()


def test_a_position_without_feedback_can_be_saved_by_a_child(library):
    """As by a checkpoint that a forked process writes."""
    with ms.Loader(make_dataset(library)) as loader:
        batches = iter(loader)
        next(batches)
        with held(loader._lock):
            assert in_child(loader.state_dict) == loader.state_dict()


def test_workers_of_a_loader_go_on_when_a_child_drops_its_copy(library):
    loader: Any = ms.StreamingDataLoader(make_dataset(library), num_workers=2)
    batches: Any = iter(loader)
    rows = [row_ids(next(batches))]

    def drop() -> str:
        nonlocal batches, loader
        said = outcomes({"next": batches.__next__})["next"]
        batches = loader = None
        gc.collect()
        return said

    assert "forked child" in in_child(drop)
    rows += [row_ids(batch) for batch in batches]
    assert joined(rows) == joined(row_ids(batch) for batch in ms.StreamingDataLoader(make_dataset(library)))


def test_a_dataset_and_its_validation_rows_are_read_in_a_child_whatever_its_parent_holds(library):
    dataset = make_dataset(library, on_bad_sample="quarantine")
    with ms.Loader(dataset) as loader:
        next(iter(loader))
        each = [ms.Stream(name=name, remote=str(library / name)) for name in dataset.domain_names]
        rows = loader.validation(streams=each, rows=4)

        def read() -> tuple[Any, ...]:
            dataset.run.quarantine.add([(0, 1)])
            return [row_ids(batch) for batch in rows], (0, 1) in dataset.run.quarantine.entries

        with held(dataset.run.quarantine._seen.lock.value, loader._lock):
            assert in_child(read) == ([row_ids(batch) for batch in rows], True)


def test_a_mixing_log_is_written_by_its_process_alone(tmp_path):
    log = MixingLog(tmp_path, names=["code", "web"])
    facts: dict[str, Any] = {"mixer": "ADO", "lag": 2, "global_batch_size": 4, "row_tokens": 4}
    log.begin(step=0, samples_K=np.array([5, 5]), **facts)
    half_K, rows_K = np.array([1 << 31, 1 << 31]), np.array([2, 2])
    log.write(0, weights_K=half_K, rows_K=rows_K)
    written = log.file.read_bytes()
    calls = {
        "write": lambda: log.write(1, weights_K=half_K, rows_K=rows_K),
        "validation": lambda: log.write_validation(0, np.ones(2)),
        "begin": lambda: log.begin(step=1, samples_K=np.array([5, 5]), **facts),
        "close": log.close,
    }
    said = in_child(lambda: outcomes(calls))
    assert said.pop("close") == "returned NoneType"
    assert all("the mixing log" in text for text in said.values())
    assert log.file.read_bytes() == written
    log.write(1, weights_K=half_K, rows_K=rows_K)
    log.close()
    steps = [json.loads(line).get("step") for line in (tmp_path / "mixture.jsonl").read_text().splitlines()]
    assert steps == [0, 0, 1]


EXITS = """
import os, sys, threading
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from harness import Tilt, make_dataset
import mixstream as ms

place = Path(sys.argv[3])
loader = ms.Loader(make_dataset(Path(sys.argv[2]), mixer=Tilt(), lag=8), log=place / "log")
batch = next(iter(loader))
loader.report(batch, torch.ones(8))
loader.state_dict()
writer = ms.MDSWriter(columns={"x": "int"}, out=str(place / "out"), size_limit=1)
writer.write({"x": 1})
writer.write({"x": 2})
background, holds, done = loader._place.session.collector._background, threading.Event(), threading.Event()

def hold():
    with background._change, loader._running.prefetcher._change, writer._lock:
        holds.set()
        done.wait()

threading.Thread(target=hold, daemon=True).start()
holds.wait()
if (child := os.fork()) == 0:
    sys.exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 7, status
assert (place / "out/.mixstream-writer.lock").exists()
done.set()
writer.finish()
loader.close()
"""


def test_a_child_that_exits_runs_no_handler_of_its_parent(library, tmp_path, warm_programs):
    script = tmp_path / "exits.py"
    script.write_text(EXITS)
    command = [warm_programs / "python", str(script), str(Path(__file__).parents[1]), str(library), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.json",
        "shard.00000.mds",
        "shard.00001.mds",
    ]
