"""A scenario: what is read, by which face, with how many ranks and workers. It opens the same run here and there.

In arguments of streams, "@web" is a place in the store (for the undisturbed reader: in the local copy), "#kept" one
among files that were made of it, on local disk.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import mixstream as ms
import mixstream.data.token_index

ADO = {"ignore_steps": 2, "start_step": 8, "update_interval": 8, "window": 5, "subsample": 1, "min_points": 4}
VALIDATED = "xxh3_64"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of run.

    Attributes:
        name: of the scenario.
        streams: arguments of each `ms.Stream`.
        dataset: arguments of `ms.StreamingDataset`; `mixer` and `order` may be names, see `dataset_of`.
        loader: arguments of the face.
        face: a name in `readers.FACES`.
        batch: rows of a global batch.
        worlds: numbers of ranks that the run is continued with.
        workers: numbers of DataLoader workers, likewise.
        together: whether ranks are a job of torch.distributed, which is killed and restarted as a whole.
        hashed: whether wrong bytes can be known, so that the store may send some.
        damaged: whether some shards are damaged for good, so that wrong bytes on the way would be set aside with them.
        shard_bytes: bytes of a part of a token file; None for those of the library.
        columns: what is compared; None for all columns.
        in_slices: whether rank r has the r-th slice of a global batch; if not, its rows may be any of it.
        changes: further arguments of each stream after the change in mid-run (`strict=False`); None for no change.
        skip: steps that are left out.
        memory: MB of anonymous memory that a process may have.
    """

    name: str
    streams: list[dict[str, Any]]
    dataset: dict[str, Any] = field(default_factory=dict)
    loader: dict[str, Any] = field(default_factory=dict)
    face: str = "loader"
    batch: int = 8
    worlds: list[int] = field(default_factory=lambda: [1, 2])
    workers: list[int] = field(default_factory=lambda: [0])
    together: bool = False
    hashed: bool = True
    damaged: bool = False
    shard_bytes: int | None = None
    columns: list[str] | None = None
    in_slices: bool = True
    changes: list[dict[str, Any]] | None = None
    skip: list[int] | None = None
    memory: int = 700

    @property
    def once(self) -> bool:
        """Whether an epoch has every row once, but for the repeats that it counts."""
        own = (
            self.dataset.get("order", "mixstream") == "mixstream"
            and self.dataset.get("batching_method") != "per_stream"
        )
        return own and "mixer" not in self.dataset and not self.damaged and self.changes is None

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the scenario that `as_json` described."""
        return cls(**document)

    def as_json(self) -> dict[str, Any]:
        """Return the scenario as a JSON document."""
        return asdict(self)


def streams_of(
    scenario: Scenario, *, root: str, made: str, cache: str | None, changed: bool, **options: Any
) -> list[ms.Stream]:
    """Return the streams of a scenario over the files below `root`."""

    def placed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.replace("@", f"{root}/", 1) if value.startswith("@") else value.replace("#", f"{made}/", 1)

    given = [dict(stream) for stream in scenario.streams]
    if changed:
        given = [stream | change for stream, change in zip(given, scenario.changes or [], strict=True)]
    streams = []
    for stream in given:
        found = {key: placed(value) for key, value in stream.items()}
        local = None if cache is None else f"{cache}/{stream['name']}"
        streams.append(ms.Stream(**found, local=local, **options))
    return streams


def dataset_of(scenario: Scenario, streams: list[ms.Stream], **options: Any) -> ms.StreamingDataset:
    """Return the dataset of a scenario; `options` say what may differ between readers of one run."""
    if scenario.shard_bytes is not None:  # parts of 64 MiB would be whole files here
        mixstream.data.token_index.SHARD_BYTES = scenario.shard_bytes
    given = {"shuffle": True, "shuffle_block_size": 256, "num_canonical_nodes": 1, **scenario.dataset}
    if given.get("mixer") == "ado":
        given |= {"mixer": ms.mixers.ADO(**ADO), "lag": 8}
    if isinstance(given.get("mixer"), dict):
        given["mixer"] = ms.mixers.Schedule({int(step): shares for step, shares in given["mixer"].items()})
    if given.get("order") == "megatron":
        given["order"] = ms.MegatronOrder(split="90,10")
        given = {key: value for key, value in given.items() if key not in {"shuffle_block_size", "shuffle"}}
        given.pop("num_canonical_nodes")
    if scenario.hashed:
        given["validate_hash"] = VALIDATED
    return ms.StreamingDataset(streams=streams, **given, **options)
