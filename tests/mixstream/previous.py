"""Runs whose files and rows the version before wrote down (tests/data/previous), and how they are run again.

`CASES` has the runs; `begun` starts one, `resumed` goes on from the state that is stored of it. What they return is
what tests/data/previous/make.py stored. Rules: only public names of mixstream; the streams stand as web, code, law, and
the plan sorts domains as code, law, web, so that no domain has the same number in both orders. A row's identity is its
first token, `1000 x domain + number`; losses depend on it and on the step alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import row_ids  # pyright: ignore[reportMissingImports] - tests/conftest.py sets the path
from torch.utils.data import DataLoader

import mixstream as ms

PREVIOUS = Path(__file__).parent.parent / "data" / "previous"
STREAMS = ("web", "code", "law")
BATCH = 8
mixers = ms.mixers


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run.

    Attributes:
        before: steps until its state is taken.
        after: steps that are drawn from the state on; an epoch of most runs has 14.
        names: the streams.
        each: further arguments of single streams.
        options: of the dataset.
        library: directory of the domains, below `PREVIOUS`.
        face: "loader", "streaming" (StreamingDataLoader) or "dataset" (in a plain DataLoader).
        report: "rows" of losses, "parts" of a batch, "sums", or rows and a "matrix"; None for no reports.
        evaluates: by "means", or by the library's own "evaluate".
        unreported: steps before the state that are not reported.
        state_of: the case whose state is loaded, if it is not its own.
        strict: whether that has to fit.
        log: whether a log is written.
    """

    before: int = 9
    after: int = 12
    names: tuple[str, ...] = STREAMS
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    library: str = "library"
    face: str = "loader"
    report: str | None = None
    evaluates: str = "means"
    unreported: int = 0
    state_of: str | None = None
    strict: bool = True
    log: bool = False


SHARES = {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}
ADO = mixers.ADO(
    window=5,
    ignore_steps=1,
    start_step=6,
    update_interval=3,
    subsample=1,
    min_points=3,
    min_seen=1,
    forgetting="ignore",  # and below ema=None: the defaults of then
)
AIOLI = mixers.Aioli(round_steps=10, sweeps=1, probe_steps=2, prior_steps=3, ema=None)
GRAPH = {"web": {"web": 1.0, "law": 0.3}, "code": {"code": 1.0, "web": 0.2}, "law": {"law": 1.0, "code": 0.6}}
SCHEDULE = mixers.Schedule(
    {
        0: {"web": 0.7, "code": 0.2, "law": 0.1},
        6: {"law": 0.4, "code": 0.5, "web": 0.1},
        16: {"code": 1, "law": 2, "web": 3},
    },
    kind="linear",
)


def learning(mixer: Any, **kw: Any) -> Case:
    """Return a run of a mixer that learns, from unequal weights on."""
    return Case(**{"each": SHARES, "options": {"mixer": mixer, "lag": 2, "epoch_size": 120}, "report": "rows", **kw})


CASES: dict[str, Case] = {
    "shuffled": Case(),
    "in_order": Case(options={"shuffle": False}),
    "weighted": Case(each=SHARES, options={"epoch_size": 96}),
    "even": Case(each=SHARES, options={"epoch_size": 80}),
    "repeat": Case(each={"web": {"repeat": 0.5}, "code": {"repeat": 1.7}, "law": {"repeat": 2}}),
    "choose": Case(each={"web": {"choose": 31}, "code": {"choose": 50}, "law": {"choose": 12}}),
    "drop_last": Case(options={"drop_last": True, "epoch_size": 90}),
    "static": Case(options={"mixer": mixers.Static({"web": 0.2, "code": 0.7, "law": 0.1})}, report="rows", log=True),
    "schedule": Case(options={"mixer": SCHEDULE}),
    "temperature": Case(options={"mixer": mixers.Temperature(2.0)}),
    "unimax": Case(options={"mixer": mixers.UniMax(budget=400, max_epochs=2)}),
    "lanes": Case(options={"num_canonical_nodes": 2}),
    "weighted_lanes": Case(each=SHARES, options={"num_canonical_nodes": 4}),
    "scheduled_lanes": Case(options={"mixer": SCHEDULE, "num_canonical_nodes": 2}),
    "max_epochs": Case(
        before=11,
        each={
            "web": {"proportion": 0.4},
            "code": {"proportion": 0.3, "max_epochs": 1.5},
            "law": {"proportion": 0.3, "max_epochs": 1},
        },
    ),
    "py1br": Case(before=5, after=4, options={"shuffle_algo": "py1br", "shuffle_block_size": 16, "shuffle_seed": 3}),
    "py1s": Case(before=5, after=4, options={"shuffle_algo": "py1s"}),
    "py2s": Case(before=5, after=4, options={"shuffle_algo": "py2s", "batching_method": "stratified"}),
    "naive": Case(before=5, after=4, options={"shuffle_algo": "naive", "shuffle_seed": 12}),
    "ado": learning(ADO, before=13, log=True),
    "ado_lanes": learning(ADO, before=16, after=4, options={"mixer": ADO, "lag": 3, "num_canonical_nodes": 2}),
    "aioli_probing": learning(AIOLI, before=6, after=16, log=True),
    "aioli_waiting": learning(AIOLI, before=7, after=8, evaluates="evaluate"),
    "odm": learning(mixers.ODM(), report="sums", unreported=2),
    "doremi": learning(mixers.DoReMi(eta=0.1, reference={"web": 3.0, "code": 1.5, "law": 4.5}), report="parts"),
    "matrix": learning(mixers.MatrixMixer(lmo=mixers.LMO(eta=1.0, targets={"law": 2, "web": 1})), report="matrix"),
    "doge": learning(mixers.DoGE(learning_rate=0.02), report="matrix", after=6),
    "skill_it": learning(mixers.SkillIt(graph=GRAPH, round_steps=4), before=10, after=8),
    "quarantine": Case(library="spoiled", options={"on_bad_sample": "quarantine"}, before=7, after=8),
    "quarantine_in_order": Case(
        library="spoiled", options={"on_bad_sample": "quarantine", "shuffle": False}, before=7, after=8
    ),
    "streaming": Case(options={"mixer": SCHEDULE}, face="streaming"),
    "streaming_ado": learning(ADO, before=13, after=6, face="streaming"),
    "dataset": Case(face="dataset"),
    "dataset_later": Case(each=SHARES, options={"epoch_size": 56}, face="dataset", before=10),
    # States that are loaded by another run: the same domains in another order, and other domains.
    "reordered": Case(names=("law", "web", "code"), each=SHARES, options={"epoch_size": 80}, state_of="even"),
    "reordered_ado": learning(ADO, names=("code", "web", "law"), state_of="ado"),
    "reordered_aioli": learning(AIOLI, names=("law", "web", "code"), state_of="aioli_waiting", after=8),
    "fewer": Case(names=("law", "web"), state_of="shuffled", strict=False),
    "fewer_ado": learning(ADO, names=("web", "code"), state_of="ado", strict=False),
    "fewer_odm": learning(mixers.ODM(), names=("law", "code"), state_of="odm", strict=False, report="sums"),
}
STORED = [name for name, case in CASES.items() if case.state_of is None]


# --- running one ------------------------------------------------------------------------------------------------------


def dataset_of(case: Case) -> ms.StreamingDataset:
    """Return the dataset of a case."""
    streams = [
        ms.Stream(name=name, remote=str(PREVIOUS / case.library / name), split="train", **case.each.get(name, {}))
        for name in case.names
    ]
    return ms.StreamingDataset(**{"streams": streams, "batch_size": BATCH, "shuffle": True, **case.options})


@contextmanager
def quietly() -> Iterator[None]:
    """Expect the warnings that these runs give."""
    with warnings.catch_warnings():
        for about in (
            "set aside",
            "has been read",
            "state is of another",
            "validation sets",
            "state is taken",
            "earlier version",
        ):
            warnings.filterwarnings("ignore", f".*{about}")
        yield


@contextmanager
def opened(case: Case, log: Path | None = None) -> Iterator[Any]:
    """Yield what hands out the batches of a case."""
    with quietly(), ExitStack() as stack:
        dataset = dataset_of(case)
        if case.face == "loader":
            yield stack.enter_context(ms.Loader(dataset, prefetch=2, log=log))
        elif case.face == "streaming":
            yield ms.StreamingDataLoader(dataset, batch_size=BATCH, log=log)
        else:
            yield DataLoader(dataset, batch_size=BATCH)


def begun(case: Case, log: Path | None = None) -> tuple[list[Any], dict[str, Any]]:
    """Run a case from its beginning; return the steps until its state is taken, and the state."""
    with opened(case, log) as loader:
        steps = train(loader, case, case.before)
        if case.face == "dataset":
            in_epoch = case.before % -(-loader.dataset.epoch_size // BATCH)
            return steps, loader.dataset.state_dict(in_epoch * BATCH)
        return steps, loader.state_dict()


def resumed(case: Case, state: dict[str, Any], log: Path | None = None) -> tuple[list[Any], dict[str, Any]]:
    """Go on from a state; return the steps that follow, and what the mixer tells of itself at the end."""
    with opened(case, log) as loader:
        (loader.dataset if case.face == "dataset" else loader).load_state_dict(state, strict=case.strict)
        steps = train(loader, replace(case, unreported=0), case.after)
        return steps, plain(loader.explain()) if case.report and case.face != "dataset" else {}


def train(loader: Any, case: Case, steps: int) -> list[Any]:
    """Take `steps` batches, over epochs, and report them; return each, with the weights after it if they are new."""
    told: list[Any] = []
    weights: dict[str, float] = {}
    while len(told) < steps:
        evaluate(loader, case)
        for batch in loader:
            step = {"rows": row_ids(batch)}
            if case.face != "dataset":
                step |= {"step": batch.step, "domain": batch.domain.tolist(), "repeats": batch.repeats}
                assert batch.get("domain", batch.domain).tolist() == step["domain"]
                if case.report and len(told) < steps - case.unreported:
                    report(loader, batch, case)
                    loader.state_dict()  # waits for the weights that follow from the report
                if weights != (weights := loader.weights):
                    step["weights"] = weights
            told.append(step)
            if len(told) == steps:
                break
            evaluate(loader, case)
    return told


def report(loader: Any, batch: Any, case: Case) -> None:
    """Report the losses of a batch in the way of the case."""
    if case.report == "rows":
        loader.report(batch, losses(row_ids(batch), batch.step))
    elif case.report == "parts":
        for part in batch.split(3):
            loader.report(part, losses(row_ids(part), part.step)[:, None].expand(-1, 4))
    elif case.report == "matrix":
        loader.report(batch, losses(row_ids(batch), batch.step), matrix=matrix(case.names, batch.step))
    else:
        sums = ms.domain_sums(losses(row_ids(batch), batch.step), batch.domain, len(case.names))
        loader.report_sums(batch.step, *(part.numpy() for part in sums))


def evaluate(loader: Any, case: Case) -> None:
    """Evaluate the model, if that is wanted."""
    if case.face == "dataset" or not loader.wants_validation:
        return
    if case.evaluates == "evaluate":
        loader.evaluate(lambda batch: losses(row_ids(batch), loader.step))
    else:
        loader.report_validation([level(STREAMS.index(name) + 1, loader.step) for name in case.names])


def level(domain: int, step: int) -> float:
    """Return the mean loss of a domain (1 web, 2 code, 3 law): a law of its own for each."""
    start, gain, speed = {1: (2.5, 3.0, 0.4), 2: (1.0, 4.0, 0.9), 3: (4.0, 1.0, 0.6)}[domain]
    return round(64 * (start + gain * (step + 1) ** -speed)) / 64


def losses(ids: Sequence[int], step: int) -> torch.Tensor:
    """Return a made-up loss per row, a multiple of 1/64."""
    return torch.tensor([level(row // 1000, step) + row * 7919 % 61 % 16 / 64 for row in ids], dtype=torch.float64)


def matrix(names: Sequence[str], step: int) -> np.ndarray:
    """Return a made-up matrix [V, K] for domains in this order; no two entries alike."""
    at = [STREAMS.index(name) for name in names]
    return (np.arange(9.0).reshape(3, 3) ** 1.5 + step)[np.ix_(at, at)] / 32


# --- what is stored ---------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return arrays as lists, and so on, as JSON has them."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


def stored(name: str) -> Any:
    """Return a JSON document that the version before stored."""
    return json.loads((PREVIOUS / name).read_text())


def alike(value: Any) -> Any:
    """Return `value` for comparing: floats need not be equal to the last bit, since another CPU may round otherwise."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)
    if isinstance(value, dict):
        return {key: alike(item) for key, item in value.items()}
    return [alike(item) for item in value] if isinstance(value, list) else value


def tables(dataset: ms.StreamingDataset) -> dict[str, Any]:
    """Return what the mosaic interface says of samples and shards by number."""
    names = ("shards", "samples")
    tables = [f"{name}_per_stream" for name in names] + ["samples_per_shard", "stream_per_shard"]
    tables += ["sample_offset_per_shard", "shard_offset_per_stream", "sample_offset_per_stream", "domain_names"]
    ids = [int(dataset[number]["tokens"][0]) for number in range(dataset.size)]
    return plain({name: getattr(dataset, name) for name in tables} | {"ids": ids})


def validation(names: Sequence[str], **options: Any) -> list[Any]:
    """Return rows and domains of a validation set."""
    with ms.Loader(dataset_of(Case(names=tuple(names)))) as loader, loader.validation(**options) as found:
        return [[row_ids(batch), batch.domain.tolist()] for batch in found]
