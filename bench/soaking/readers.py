"""What runs in a process that is killed: a face of the library that reads on from a state, and notes every batch.

The first line of a log says where the process begins. A batch is noted before a state behind it is saved, so a state
never lies ahead of what was noted. States are replaced by renaming.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mixstream.storage.retry import Retry
from soaking.rows import array_of, problem_of, rows_of
from soaking.scenario import Scenario, dataset_of, streams_of


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process is to do.

    Attributes:
        scenario: as JSON.
        root: the store's URL.
        made: directory of files that were made of the data.
        cache: directory that all processes share; `limit` bytes of it.
        rank: of `world` ranks.
        workers: of a DataLoader.
        generation: counts how often the number of ranks was set.
        changed: whether the streams have changed.
        changing: whether the state is of a run before the change.
        every: steps between two states.
        state: file of the state to go on from; None at the beginning.
        saves: file for its own states.
        log: file for its batches.
        place: directory of its own, for trainers' checkpoints.
        meeting: file by which ranks of torch.distributed meet.
        seed: of what is drawn at random.
    """

    scenario: dict[str, Any]
    root: str
    made: str
    cache: str | None
    limit: int | None
    rank: int
    world: int
    workers: int
    generation: int
    changed: bool
    changing: bool
    every: int
    state: str | None
    saves: str
    log: str
    place: str
    meeting: str | None
    predownload: int
    seed: int


class Notes:
    """The log and the states of one process."""

    def __init__(self, task: Task, scenario: Scenario) -> None:
        self.task, self.scenario = task, scenario
        self._log = Path(task.log).open("a", buffering=1)  # noqa: SIM115 - for the life of the process
        self._since = 0

    def state(self) -> tuple[int, Any]:
        """Return the steps that a run had handed out when it saved the state to go on from, and the state."""
        return (0, None) if self.task.state is None else pickle.loads(Path(self.task.state).read_bytes())

    def begin(self, step: int) -> None:
        """Note where the process begins."""
        task = self.task
        about = {"generation": task.generation, "world": task.world, "rank": task.rank, "changed": task.changed}
        self._log.write(json.dumps({"begin": step, **about}) + "\n")

    def batch(self, step: int, batch: Mapping[str, Any]) -> None:
        """Note a batch."""
        rows, size = rows_of(batch, self.scenario.columns)
        line = {"step": step, "rows": rows, "bytes": size, "problem": problem_of(batch)}
        self._log.write(json.dumps(line, separators=(",", ":")) + "\n")

    def save(self, steps: int, document: Callable[[], Any]) -> None:
        """Save the state behind so many steps, if it is time to."""
        self._since += 1
        if self._since < self.task.every:
            return
        self._since = 0
        path = Path(self.task.saves)
        aside = path.with_suffix(".new")
        aside.write_bytes(pickle.dumps((steps, document())))
        aside.replace(path)

    def check_begins_at(self, step: int, saved: int) -> None:
        """Check that a face says that it is where the state was saved."""
        if step != saved:
            raise AssertionError(f"the state was saved after {saved} steps, and the face is at step {step} with it")


def losses_of(batch: Any) -> Any:
    """Return losses that are a pure function of a batch, and whose sums are exact in whatever order."""
    import torch

    first_B = torch.from_numpy(array_of(batch["tokens"]))[:, 0] % 64
    domain_B = torch.from_numpy(array_of(batch["domain"]))
    return 1.0 + first_B.double() / 64 + (domain_B.double() + 1) * 2.0 ** -min(batch.step // 40, 20)


def small(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state as it comes out of a JSON file."""
    return json.loads(json.dumps(document))


def options_of(task: Task, scenario: Scenario) -> dict[str, Any]:
    """Return the arguments of a dataset that may differ between the readers of a run."""
    ranks = {} if scenario.together else {"rank": task.rank, "world_size": task.world}
    return {"batch_size": scenario.batch // task.world, "predownload": task.predownload, **ranks}


def open_dataset(task: Task, scenario: Scenario) -> Any:
    """Return the dataset as this process reads it."""
    retry = {"download_retry": 6 if scenario.damaged else 24, "download_timeout": 3.0}
    streams = streams_of(scenario, root=task.root, made=task.made, cache=task.cache, changed=task.changed, **retry)
    return dataset_of(scenario, streams, cache_limit=task.limit, **retry, **options_of(task, scenario))


def read_loader(task: Task, scenario: Scenario, notes: Notes) -> None:
    """`ms.Loader`."""
    import mixstream as ms

    loader = ms.Loader(open_dataset(task, scenario), **scenario.loader)
    saved, document = notes.state()
    if document is not None:
        loader.load_state_dict(document, strict=not task.changing)
    notes.check_begins_at(loader.step, saved)
    if scenario.skip and saved <= scenario.skip[0]:
        loader.skip(range(*scenario.skip))
    notes.begin(saved)
    for batch in on_and_on(loader):
        notes.batch(batch.step, batch)
        if scenario.dataset.get("mixer") == "ado":
            loader.report(batch, losses_of(batch))
        notes.save(loader.step, lambda: small(loader.state_dict()))
    loader.close()


def on_and_on(loader: Any) -> Iterator[Any]:
    """Yield batches of epoch after epoch, until an epoch has none."""
    from mixstream.errors import ExhaustedError

    while True:
        handed_out = False
        try:
            for batch in loader:
                handed_out = True
                yield batch
        except ExhaustedError:
            return
        if not handed_out:
            return


def worker_options(task: Task) -> dict[str, Any]:
    """Return the arguments of a DataLoader with workers."""
    if not task.workers:
        return {"num_workers": 0}
    kind = start_method(task)
    return {"num_workers": task.workers, "multiprocessing_context": kind, "persistent_workers": task.seed % 2 == 0}


def start_method(task: Task) -> str:
    """Return how its workers are started; the last two ways take seconds."""
    return ("fork", "fork", "fork", "spawn", "forkserver")[task.seed % 5]


def read_streaming(task: Task, scenario: Scenario, notes: Notes) -> None:
    """`ms.StreamingDataLoader`."""
    import mixstream as ms

    dataset = open_dataset(task, scenario)
    loader = ms.StreamingDataLoader(dataset, batch_size=dataset.batch_size, **worker_options(task), **scenario.loader)
    saved, document = notes.state()
    if document is not None:
        loader.load_state_dict(document)
    notes.begin(saved)
    for batch in endless(loader):
        notes.batch(batch.step, batch)
        if scenario.dataset.get("mixer") == "ado":
            loader.report(batch, losses_of(batch))
        step = batch.step + 1
        notes.save(step, lambda: small(loader.state_dict() or {}))


def endless(loader: Any) -> Iterator[Any]:
    """Yield batches of epoch after epoch; two epochs without any are an error."""
    empty = 0
    while empty < 2:
        empty += 1
        for batch in loader:
            empty = 0
            yield batch
    raise AssertionError("two epochs without a batch")


def read_dataloader(task: Task, scenario: Scenario, notes: Notes) -> None:
    """torch's DataLoader over the dataset, whose batches the trainer counts."""
    from torch.utils.data import DataLoader

    dataset = open_dataset(task, scenario)
    saved, document = notes.state()
    if document is not None:
        dataset.load_state_dict(document)
    notes.begin(saved)
    options = worker_options(task)
    loader = DataLoader(dataset, batch_size=dataset.batch_size, **options)
    step, empty = saved, 0
    while empty < 2:
        empty, taken = empty + 1, 0
        first = step == saved
        for batch in loader:
            notes.batch(step, batch)
            step, taken, empty = step + 1, taken + scenario.batch, 0
            whole = not (first and document is not None)
            notes.save(step, partial(counted, dataset, taken, whole=whole))
    raise AssertionError("two epochs without a batch")


def counted(dataset: Any, samples: int, *, whole: bool) -> dict[str, Any]:
    """Return the state behind so many samples of the running epoch, from its beginning if `whole`."""
    return small(dataset.state_dict(samples, from_beginning=whole))


def read_stateful(task: Task, scenario: Scenario, notes: Notes) -> None:
    """torchdata's StatefulDataLoader, which keeps a state for each of its workers."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    dataset = open_dataset(task, scenario)
    options = worker_options(task)
    options.pop("persistent_workers", None)
    loader = StatefulDataLoader(dataset, batch_size=dataset.batch_size, **options)
    saved, document = notes.state()
    if document is not None:
        loader.load_state_dict(document)
    notes.begin(saved)
    step = saved
    for batch in endless(loader):
        notes.batch(step, batch)
        step += 1
        notes.save(step, loader.state_dict)


def _hf(task: Task, scenario: Scenario, notes: Notes) -> None:
    from soaking.trainers import read_hf

    read_hf(task, scenario, notes, open_dataset(task, scenario))


def _lightning(task: Task, scenario: Scenario, notes: Notes) -> None:
    from soaking.trainers import read_lightning

    read_lightning(task, scenario, notes, lambda ranks: open_dataset(task, scenario))


FACES: dict[str, Callable[[Task, Scenario, Notes], None]] = {
    "loader": read_loader,
    "streaming": read_streaming,
    "dataloader": read_dataloader,
    "stateful": read_stateful,
    "hf": _hf,
    "lightning": _lightning,
}


def run(task: Task) -> None:
    """Read until killed, or until the data end. The process is a session of its own, and ends with its parent."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    errors = Path(task.log).with_suffix(".err").open("a", buffering=1)
    os.dup2(errors.fileno(), 2)
    os.dup2(errors.fileno(), 1)
    faulthandler.register(signal.SIGUSR1, file=errors, all_threads=True)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    pause = Retry.pause
    Retry.pause = lambda self, number: pause(self, number) / 10  # a minute has to be worth ten
    scenario = Scenario.from_json(task.scenario)
    try:
        if scenario.together and task.world > 1:
            meet(task)
        FACES[scenario.face](task, scenario, Notes(task, scenario))
    except BaseException as error:
        traceback.print_exc(file=errors)
        for note in getattr(error, "__notes__", ()):
            print(note, file=errors)
        print(f"{type(error).__name__}", file=errors)
        errors.flush()
        os._exit(3)
    errors.flush()
    sys.stdout.flush()
    os._exit(0)


def meet(task: Task) -> None:
    """Join the ranks of a job of torch.distributed."""
    import torch.distributed as dist

    os.environ |= {"RANK": str(task.rank), "WORLD_SIZE": str(task.world), "LOCAL_WORLD_SIZE": str(task.world)}
    os.environ |= {"LOCAL_RANK": str(task.rank)}
    dist.init_process_group("gloo", init_method=f"file://{task.meeting}", rank=task.rank, world_size=task.world)
