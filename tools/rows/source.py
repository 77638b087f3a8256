"""The run of `mixstream rows`: what its log or state says, and where its shards are. It only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstream import Stream
from mixstream.errors import ConfigError
from mixstream.feedback import LoggedRun, read_log
from mixstream.formats import Index, Options
from mixstream.loader import open_domains
from mixstream.plan import RunState
from mixstream.storage import domain_name, is_local, local_path, redact

from ..shared.artefacts import open_selections, places_of
from ..shared.domains import NamedDataset, find_domains
from ..shared.states import read_state

_LOG_LINE = b'{"event":'
_MEGATRON = "packing megatron "


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is left of a run.

    Attributes:
        logged: its log; None if not given.
        state: a state of it; None if not given.
        where: the state, for errors.
    """

    logged: LoggedRun | None
    state: RunState | None
    where: str

    @property
    def names(self) -> list[str]:
        """The domains of the run, in the plan's order."""
        if self.state is not None:
            return [domain.name for domain in self.state.domains]
        assert self.logged is not None
        return self.logged.headers[0].domains  # later ones have the same, or later steps are refused

    @property
    def packed(self) -> set[str]:
        """The domains that were read as packed rows."""
        return {name for name, view in self._views.items() if "packing " in view}

    @property
    def is_of_megatron(self) -> bool:
        """Whether Megatron's order decided the rows."""
        return any(view.startswith(_MEGATRON) for view in self._views.values())

    @property
    def _views(self) -> Mapping[str, str]:
        """Domain -> by which selection or packing it was read."""
        if self.state is not None:
            return {domain.name: domain.selection or "" for domain in self.state.domains}
        assert self.logged is not None
        plan = self.logged.headers[0].plan
        return {} if plan is None else plan.views

    @property
    def source(self) -> str:
        """The log or the state, for errors."""
        return self.where if self.logged is None else self.logged.path


def open_record(log: str | None, state: str | None) -> Record | None:
    """Return what a log and a state say; None if neither is given.

    Raises:
        ConfigError: a file is not what it should be, or is not on local disk.
        StateError: it is damaged.
    """
    if log is None and state is None:
        return None
    for given in (log, state):
        if given is not None and not is_local(given):
            raise ConfigError(f"{redact(given)}: a log or a state is read from local disk: copy it here first")
    logged = None
    if log is not None:
        if not (path := local_path(log)).exists():
            raise ConfigError(f"{path} does not exist: give a mixing log, or the directory with its mixture.jsonl")
        _check_is_log(path)
        logged = read_log(path)
    found, where = (None, "") if state is None else read_state(local_path(state))
    record = Record(logged=logged, state=found, where=where)
    if record.is_of_megatron:
        raise ConfigError(
            f"{record.source} is of a run with order='megatron', whose rows this command does not compute: read the "
            'step with ms.Loader(dataset), after loader.load_state_dict({"consumed_samples": step * global_batch_size})'
        )
    return record


def _check_is_log(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb") as file:
        beginning = file.read(len(_LOG_LINE))
    if beginning and not _LOG_LINE.startswith(beginning):
        raise ConfigError(f"{path} is not a mixing log: give a state or a checkpoint with --state")


def open_shards(
    urls: Sequence[str],
    *,
    record: Record | None,
    split: str,
    selection: str | None,
    packing: str | None,
    options: Options,
    eos_id: int | None,
    cache: Path,
    allow_unsafe_types: bool,
) -> tuple[Any, Mapping[str, NamedDataset]]:
    """Return the domains of a run, or all at the URLs without a run; and the datasets by the domain's stream.

    Args:
        urls: directories of domains, or NAME=URL.
        record: the run.
        split: which datasets.
        selection: path or URL of the selections, or buckets, by which domains are read.
        packing: path or URL of the packings of the domains that were packed, or "concat".
        options: how token files are read.
        eos_id: the token by which documents of token files were found, to pack them.
        cache: a directory for what is fetched.
        allow_unsafe_types: whether pickled columns may be decoded.

    Raises:
        ConfigError: the domains are not those of the run.
    """
    datasets = {domain_name(each.name): each for each in find_domains(urls, split=split, options=options)}
    kept = {} if selection is None else dict(places_of(selection, "selection"))
    buckets = (
        {} if selection is None else {name: len(each.buckets) for name, each in open_selections(selection).items()}
    )
    if record is not None:
        streams = {name.rpartition("/")[0] if name.rpartition("/")[0] in datasets else name for name in record.names}
        datasets = {name: each for name, each in datasets.items() if name in streams}
    made = []
    for name, each in datasets.items():
        given: dict[str, Any] = {}
        if packing is not None and (record is None or name in record.packed):
            given["packing"] = packing
        elif name in kept:
            given["split_by" if buckets[name] > 1 else "selection"] = kept[name]
        if not isinstance(each.index, Index) or given.get("packing") == "concat":
            given |= {"seq_len": options.seq_len, "dtype": options.dtype, "overlap": options.overlap or None}
            given |= {"column": options.column, "eos_id": eos_id}
        local = None if is_local(each.url) else str(cache / str(len(made)))
        made.append(Stream(remote=each.url, local=local, name=name, **given))
    where = record.source if record is not None else "the command"
    if not made:
        names = record.names if record is not None else []
        raise ConfigError(f"{where} reads the domains {names}, and none of them is here: give them as NAME=URL")
    names = record.names if record is not None else None
    return open_domains(made, names, allow_unsafe_types=allow_unsafe_types, where=where), datasets
