"""States of many kinds of runs, damaged, and loaded into a loader of the same run.

A damaged state is refused by a `StateError`, and the loader then goes on as before. Or it is taken: then it hands out
the rows that it would have, since what was changed does not decide any; or the change is in one of the few places where
a state of another course of the same run differs, `OF_ANOTHER_COURSE`. Anything else is a finding.
"""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from _mutate import damaged, mutated, text_of  # pyright: ignore[reportMissingImports] - `_worker.py` sets the path
from previous import BATCH, CASES, STREAMS, Case, dataset_of, learning, train  # pyright: ignore[reportMissingImports]
from token_files import megatron_pair, write_files  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import ConfigError, MixstreamError, StateError
from mixstream.mixers import ADO, LMO, ODM, Aioli, DoReMi, MatrixMixer

AHEAD = 4
OF_ANOTHER_COURSE = {
    "mixing": "other losses lead to other weights and another state of the mixer",
    "quarantined": "other samples may be set aside",
    "skipped": "other steps may be left out",
    "iterator": "",
}
BY_WEIGHTS = {"domains", "total"}
"""Where such a state differs under a learning mixer or a schedule: other weights lead to other draws and credits."""
LEARNING = {
    "ado forgetting": ADO(
        window=5, ignore_steps=1, start_step=6, update_interval=3, subsample=1, min_points=3, min_seen=1
    ),
    "aioli ema": Aioli(round_steps=10, sweeps=1, probe_steps=2, prior_steps=3),
    "odm smoothed": ODM(form="smoothed"),
    "doremi average": DoReMi(serve="average", w0="uniform"),
}


@dataclass
class Kind:
    """A kind of run: what reads it, its state, and the rows that follow."""

    reader: Any  # a loader, or a dataset that is iterated itself
    read: Callable[[], list[Any]]  # the rows of the next steps
    state: dict[str, Any]
    rows: list[Any] = field(default_factory=list)
    moved: bool = True  # whether the reader is elsewhere than at `state`


def cases() -> dict[str, Case]:
    """Return the kinds of runs that a loader reads, by name."""
    found = {name: case for name, case in CASES.items() if case.state_of is None and not case.unreported}
    more = {
        "four lanes": Case(options={"num_canonical_nodes": 4}),
        "odd lanes": Case(options={"num_canonical_nodes": 4}, each={"web": {"choose": 31}, "law": {"repeat": 2}}),
        "exhausted": Case(before=12, each={"code": {"max_epochs": 1}, "law": {"max_epochs": 2}}),
        "later epoch": Case(before=33, options={"drop_last": True}),
        "stretches": Case(each=CASES["weighted"].each, options={"batching_method": "per_stream"}),
        "skips": Case(before=12),
        "mosaic": Case(options={"order": "mosaic"}),
        "mosaic py1s": Case(options={"order": "mosaic", "shuffle_algo": "py1s"}),
        "mosaic per stream": Case(options={"order": "mosaic", "batching_method": "per_stream"}),
        "matrix ema": learning(MatrixMixer(lmo=LMO(ema=0.5, mode="restart", smoothing=0.05)), report="matrix"),
        **{name: learning(mixer, before=16) for name, mixer in LEARNING.items()},
    }
    return {name: replace(case, face="loader", unreported=0) for name, case in (found | more).items()}


def of_loader(loader: Any, case: Case, name: str) -> Kind:
    """Return the kind of run that a loader reads, after the steps of `case`."""
    if name == "skips":
        loader.skip(range(5, 8))
        loader.skip(range(14, 15))
    train(loader, case, case.before)
    return Kind(loader, lambda: [step["rows"] for step in train(loader, case, AHEAD)], loader.state_dict())


def of_pairs() -> Kind:
    """Return a run in the order of Megatron."""
    place = Path(tempfile.mkdtemp())
    for number, name in enumerate(STREAMS):
        texts = [[1000 * number + 20 * i + j for j in range(i * 7 % 20)] for i in range(1, 30)]
        write_files(place, megatron_pair(texts, name))
    streams = [
        ms.Stream(name=name, local=f"{place}/{name}.idx", seq_len=8, overlap=1, proportion=share)
        for name, share in zip(STREAMS, (0.5, 0.3, 0.2))
    ]
    options: dict[str, Any] = {"batch_size": 4, "order": "megatron", "epoch_size": 80}
    return of_loader(ms.Loader(ms.StreamingDataset(streams=streams, **options), prefetch=0), Case(), "megatron")


def of_samples() -> Kind:
    """Return a run whose dataset is iterated without a loader, and left within a step."""
    dataset = dataset_of(Case())

    def read(samples: int = AHEAD * BATCH) -> list[int]:
        return [int(sample["tokens"][0]) for sample in islice(dataset, samples)]

    read(5 * BATCH + 3)
    return Kind(dataset, read, dataset.state_dict())


OTHERS = {"megatron": of_pairs, "samples": of_samples}
"""Kinds that no case has."""


@cache
def names() -> list[str]:
    """Return the names of all kinds."""
    return [*cases(), *OTHERS]


@cache
def kind(name: str) -> Kind:
    """Return a kind of run, with what reads it and its state."""
    if name in OTHERS:
        found = OTHERS[name]()
    else:
        case = cases()[name]
        found = of_loader(ms.Loader(dataset_of(case), prefetch=0), case, name)
    found.state = json.loads(json.dumps(found.state))
    found.reader.load_state_dict(found.state)
    found.rows = found.read()
    return found


def prepare(seed: int) -> None:
    """Make the run of which `seed` damages a state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind(random.Random(seed).choice(names()))


def case(seed: int, place: Path) -> str:
    """Run one case."""
    del place
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _case(random.Random(seed))


def _case(rng: random.Random) -> str:
    name = rng.choice(names())
    found = kind(name)
    if found.moved:
        found.reader.load_state_dict(found.state)
    as_bytes = rng.random() < 0.2
    if as_bytes:
        changed: Any = ["bytes"]
        document: Any = {"state": damaged(rng, text_of(found.state))}
        if rng.random() < 0.3:
            with contextlib.suppress(RecursionError, ValueError):  # too deep for `json`, or within itself
                document = {"state": text_of(mutated(rng, found.state)[0])}
    else:
        document, changed = mutated(rng, found.state)
    before, found.moved = found.reader.state_dict(), True
    strict = rng.random() < 0.9
    try:
        found.reader.load_state_dict(document, strict=strict)
    except (StateError, ConfigError) as error:
        if not isinstance(error, StateError) and not name.startswith("mosaic"):  # which finds it while it deals out
            raise
        str(error).encode()
        if len(str(error)) > 20_000:
            raise AssertionError(f"an error of {len(str(error))} characters") from None
        assert found.reader.state_dict() == before, "a refused state has changed the loader"
        found.moved = rng.random() < 0.2
        if found.moved:
            assert found.read() == found.rows, "a refused state has changed what the loader reads"
        return type(error).__name__
    try:
        rows = found.read()
    except MixstreamError as error:
        _renew()
        if name.startswith("mosaic") and isinstance(error, ConfigError):  # it does not deal such an epoch out
            return "ConfigError later"
        raise AssertionError(f"{name}: {changed} is taken, and fails later") from error
    except BaseException:
        _renew()
        raise
    text = json.dumps(found.reader.state_dict())
    assert len(text) < 100_000
    if rows == found.rows:
        return "same"
    where = {str(path[0]) for path in changed}
    if not strict or name.startswith("mosaic"):  # of another run; or of any place in any order of that package
        return "another run"
    if as_bytes or where <= set(OF_ANOTHER_COURSE) | (set() if _is_exact(found) else BY_WEIGHTS):
        return "other"
    _renew()
    raise AssertionError(f"{name}: {changed} is taken, and other rows are read")


def _is_exact(found: Kind) -> bool:
    """Whether every number of a run follows from its step: weights are fixed, and no domain leaves the mix."""
    domains = found.state.get("domains", ())
    return found.state.get("settings", {}).get("mixer") == "static" and all(d["max_epochs"] is None for d in domains)


def _renew() -> None:
    """Let the next case begin with another loader, since this one may have failed."""
    kind.cache_clear()
