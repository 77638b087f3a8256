"""The input of `mixstream plan`: a mixing log, a saved state (alone or in a checkpoint), or shards. It only reads.

Shape suffixes: K domains, T logged steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mixstream.errors import ConfigError, StateError, StoreError
from mixstream.feedback import FILE, LoggedRun, read_log
from mixstream.formats import Index, fixed_row_tokens
from mixstream.plan import WEIGHT_UNIT, RunState
from mixstream.storage import Retry, domain_name, open_store, redact

from ..shared.artefacts import open_selections
from ..shared.datasets import Dataset, find_datasets, refuse_unfinished
from ..shared.states import read_state
from .course import Course, Float64, Int64

_LOG_LINE = b'{"event":'


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The domains and their sizes.

    Attributes:
        names: in the order of all arrays.
        samples_K: int64 [K], samples of each domain.
        row_tokens: tokens in a row; None if unknown.
    """

    names: tuple[str, ...]
    samples_K: Int64
    row_tokens: int | None

    def among(self, names: tuple[str, ...], *, where: str) -> Sizes:
        """Return these domains in the order of `names`.

        Raises:
            ConfigError: the domains have other names.
        """
        if set(names) != set(self.names):
            raise ConfigError(
                f"{where} mixes the domains {sorted(names)}, but --data has {sorted(self.names)}: give the directory "
                "that the run reads (and, for its buckets, --selection), or leave out --data"
            )
        samples = dict(zip(self.names, self.samples_K.tolist()))
        samples_K = np.array([samples[name] for name in names], dtype=np.int64)
        return Sizes(names=names, samples_K=samples_K, row_tokens=self.row_tokens)

    def kept(self, path: str) -> Sizes:
        """Return the domains that a selection makes of these: with the kept samples, or one for each bucket.

        Args:
            path: a directory, or a URL, with the selections of some of the domains; the others are read whole.

        Raises:
            ConfigError: there is a selection of another domain.
            SelectionError: there is none, or it is damaged.
        """
        found = open_selections(path)
        if strange := sorted(set(found) - set(self.names)):
            raise ConfigError(f"{path} has selections of {strange}, but --data has {sorted(self.names)}: give others")
        sizes: dict[str, int] = {}
        for name, samples in zip(self.names, self.samples_K.tolist()):
            if name not in found:
                sizes[name] = samples
                continue
            made = found[name]
            names = [f"{name}/{bucket}" if len(made.buckets) > 1 else name for bucket in made.buckets]
            sizes |= {name: kept for name, kept in zip(names, made.kept_K.tolist()) if kept}
        return replace(self, names=tuple(sizes), samples_K=np.array(list(sizes.values()), dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A run, read from its log or its state.

    Attributes:
        kind: "log" or "state".
        where: the file, and the position in it.
        domains: the domains that it mixes.
        mixer: name of the mixer.
        learns: whether weights depend on losses.
        batch: rows of a step.
        step: the first step after those in the log or state.
        epoch: epoch of that step; None if unknown.
        drawn_K: float64 [K], rows drawn before that step.
        course: the weights; None if only the run's own mixer knows them.
        max_epochs_K: epochs after which a domain leaves the mixture, per domain.
        logged: the log; None for a state.
        selected: the domains of which a selection is read.
        skipped: the steps that are left out, as text; empty if none are.
    """

    kind: str
    where: str
    domains: Sizes
    mixer: str
    learns: bool
    batch: int
    step: int
    epoch: int | None
    drawn_K: Float64
    course: Course | None
    max_epochs_K: tuple[float | None, ...]
    logged: LoggedRun | None = None
    selected: tuple[str, ...] = ()
    skipped: str = ""


def open_source(path: Path) -> Source:
    """Return the run of a log, a state or a checkpoint.

    Raises:
        ConfigError: the file is none of these.
        StateError: it is damaged.
    """
    if path.is_dir():
        if not (path / FILE).is_file():
            raise ConfigError(f"{path} holds no {FILE}: give a log, a state or a checkpoint; shards go to --data")
        return _of_log(read_log(path))
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: give a mixing log ({FILE}), a saved state or a checkpoint")
    with path.open("rb") as file:
        beginning = file.read(len(_LOG_LINE))
    if beginning == _LOG_LINE:
        return _of_log(read_log(path))
    state, where = read_state(path)
    return _of_state(state, where)


def read_shards(data: str, split: str) -> Sizes:
    """Return the domains below a directory or URL: DIR/DOMAIN/SPLIT, or DIR/DOMAIN for domains without splits.

    Raises:
        ConfigError: there is no domain.
        IndexCorruptError, StoreError: an index cannot be read.
    """
    at: dict[str, Dataset] = {}
    above = open_store(data).url
    found = find_datasets([data], Retry(knobs=("", "")), list_files=False)[0]
    refuse_unfinished(found)
    for dataset in found:
        if dataset.store.url == above:  # `data` is itself a dataset, without a domain's name; or the store failed
            _index(dataset)
            continue
        directory = dataset.name.removesuffix(f"/{split}")
        name = domain_name(directory)
        if "/" not in directory and (name not in at or directory != dataset.name):
            at[name] = dataset
    if not at:
        raise ConfigError(
            f"--data {redact(data)} has no domain with {split}/index.json: give the directory above the domains, the "
            "--out of `mixstream convert`, or another --split"
        )
    names = tuple(sorted(at))
    indexes = [_index(at[name]) for name in names]
    samples_K = np.array([sum(shard.samples for shard in index.shards) for index in indexes], dtype=np.int64)
    shards = (shard.columns for index in indexes for shard in index.shards)
    return Sizes(names=names, samples_K=samples_K, row_tokens=fixed_row_tokens(shards))


def _index(dataset: Dataset) -> Index:
    if dataset.trouble is not None:
        if not isinstance(dataset.trouble, StoreError):  # its message names the URL already
            dataset.trouble.add_note(f"while reading the index of {dataset.store.url}")
        raise dataset.trouble
    assert dataset.index is not None, "there is an index where there is no trouble"
    return dataset.index


def _of_log(run: LoggedRun) -> Source:
    header, steps = run.header, run.step_T
    course = Course(step_C=steps, weights_CK=run.weights_TK / WEIGHT_UNIT) if len(steps) else None
    return Source(
        kind="log",
        where=run.path,
        domains=Sizes(names=run.names, samples_K=run.samples_K, row_tokens=header.row_tokens),
        mixer=header.mixer,
        learns=header.lag is not None,
        batch=header.global_batch_size,
        step=int(steps[-1]) + 1 if len(steps) else header.step,
        epoch=None,
        drawn_K=run.rows_TK.sum(axis=0).astype(np.float64),
        course=course,
        max_epochs_K=(None,) * len(run.names),
        logged=run,
        selected=tuple(name for name in run.names if name in header.selections),
        skipped=str(run.skips),
    )


def _of_state(state: RunState, where: str) -> Source:
    names = tuple(domain.name for domain in state.domains)
    return Source(
        kind="state",
        where=where,
        domains=Sizes(names=names, samples_K=np.array([d.samples for d in state.domains]), row_tokens=None),
        mixer=state.settings.mixer.partition(" ")[0] if state.settings.mixer != "in order" else "none",
        learns=state.mixing is not None,
        batch=state.settings.global_batch_size,
        step=state.step,
        epoch=state.epoch,
        drawn_K=np.array([sum(domain.drawn) for domain in state.domains], dtype=np.float64),
        course=_course_of(state),
        max_epochs_K=tuple(domain.max_epochs for domain in state.domains),
        selected=tuple(domain.name for domain in state.domains if domain.selection),
        skipped=str(state.skips),
    )


def _course_of(state: RunState) -> Course | None:
    """The weights in a state: those of a static mixture, or those that a mixer has computed so far."""
    if state.mixing is None:
        if state.settings.mixer not in ("static", "in order"):
            return None
        choose_K = np.array([domain.share or domain.choose for domain in state.domains], dtype=np.float64)
        return Course.constant(choose_K / max(choose_K.sum(), 1))
    try:
        log = sorted((int(step), np.array(parts, dtype=np.float64)) for step, parts in state.mixing["log"])
        weights_CK = np.stack([parts_K for _, parts_K in log]) / WEIGHT_UNIT
        if weights_CK.shape[1] != len(state.domains):
            raise ValueError(f"{weights_CK.shape[1]} weights for {len(state.domains)} domains")
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the log of weights in the state cannot be read ({error!r}); use an older checkpoint"
        ) from error
    return Course(step_C=np.array([step for step, _ in log], dtype=np.int64), weights_CK=weights_CK)
