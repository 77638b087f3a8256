"""The iterations of k-means in parts: in processes of this machine, or on a Ray cluster.

Rules. The sums of an iteration are integers, so prototypes are the same to the last bit wherever its parts run. The
sample is written once, as scores of its own below the directory of the result, since workers share files only; it is
removed in the end, and what a killed run left is replaced by the next. A small sample is not worth a process.

Shape suffixes: N rows of the sample, K prototypes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import Column, Scores, ScoresWriter, ShardIdentity, ShardTable, discard, provenance
from mixstream.selection.prototypes import KMeans, Sums, lloyd_part

from ..shared.executors import Executor, default_workers
from ..shared.numbers import MaybeWorkers
from ..shared.parts import PartOptions

_PAYS = 1 << 36  # products of two numbers in an iteration; one core needs seconds for them
_ROWS = 1 << 14  # of a part, at least; also 4 K, so that sums are small beside what they cost
_COLUMN = "embedding"
_BLOCK = 1 << 16


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """Where the iterations of k-means run. As a parameter of a command, its fields are options.

    Args:
        workers: processes; default: one for each core, or this one alone if the sample is small.
        engine: `local` processes, or a `ray` cluster.
        ray_address: a running cluster, HOST:PORT or auto; default: $RAY_ADDRESS, else one is started here.
    """

    workers: MaybeWorkers = None
    engine: Literal["local", "ray"] = "local"
    ray_address: Annotated[str | None, Parameter(show_default=False)] = None

    def __post_init__(self) -> None:
        """Check the values, as `PartOptions` does."""
        _ = self.parts

    @property
    def parts(self) -> PartOptions:
        """The same options for work that is split by rows."""
        return PartOptions(workers=self.workers, engine=self.engine, ray_address=self.ray_address)

    def require_torch(self, settings: KMeans) -> None:
        """Refuse to spread what faiss computes.

        Raises:
            ConfigError: faiss is to fit, on a cluster or in several processes.
        """
        if settings.engine == "faiss" and (self.engine == "ray" or (self.workers or 1) > 1):
            given = "--engine ray" if self.engine == "ray" else f"--workers {self.workers}"
            raise ConfigError(f"--engine-kmeans faiss fits in this process, with all its threads: leave out {given}")


class Iterations:
    """The `step` of `mixstream.selection.prototypes.fit`; a context manager.

    Args:
        options: where parts run.
        device: "cpu" or "cuda". One process uses the GPU of this machine; on Ray, each part has one.
        place: directory of the result; the sample lies in `sample/` below it.
    """

    def __init__(self, options: FitOptions, *, device: str, place: Path) -> None:
        self._options, self._device = options, device
        self._place = (place / "sample").absolute()
        self._open = ExitStack()
        self._executor: Executor | None = None
        self._written: tuple[NDArray[Any], str] | None = None  # the sample in the file, and its id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if self._written is not None:
            discard(self._place)
            self._written = None

    def __call__(self, sample_ND: NDArray[Any], centroids_KD: NDArray[np.float32]) -> Iterator[Sums]:
        """Yield the sums of the parts of one iteration."""
        if not self._spreads(sample_ND, centroids_KD):
            yield lloyd_part(sample_ND, centroids_KD, device=self._device)
            return
        if self._written is None or self._written[0] is not sample_ND:
            self._written = sample_ND, self._write(sample_ND)
        rows = max(_ROWS, 4 * len(centroids_KD))
        tasks = [
            Part(
                sample=self._place, id=self._written[1], begin=begin, end=min(begin + rows, len(sample_ND)),
                centroids_KD=centroids_KD, device=self._device,
            )
            for begin in range(0, len(sample_ND), rows)
        ]  # fmt: skip
        if self._executor is None:
            executor = self._options.parts.executor(len(tasks), gpus=float(self._device == "cuda"))
            self._executor = self._open.enter_context(executor)
        yield from self._executor.run(sums_of_part, tasks, lambda _: None)

    def _spreads(self, sample_ND: NDArray[Any], centroids_KD: NDArray[np.float32]) -> bool:
        """Return whether an iteration is split: as the user says, or else if it pays."""
        options = self._options
        if options.engine == "ray" or options.workers is not None:
            return options.engine == "ray" or options.workers != 1
        pays = sample_ND.size * len(centroids_KD) >= _PAYS
        return pays and self._device == "cpu" and default_workers() > 1

    def _write(self, sample_ND: NDArray[Any]) -> str:
        """Write the sample, and return its id."""
        table = ShardTable(shards=(ShardIdentity(name="sample", samples=len(sample_ND), raw_bytes=0),))
        column = Column(name=_COLUMN, dtype=sample_ND.dtype.str, shape=sample_ND.shape[1:])
        made = provenance({"stage": "k-means"})
        with ScoresWriter(
            self._place, domain="sample", table=table, columns=[column], made=made, overwrite=True
        ) as writer:
            for at in range(0, len(sample_ND), _BLOCK):
                writer.write(at, {_COLUMN: sample_ND[at : at + _BLOCK]})
        return Scores.open(self._place).id


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of the sample in one iteration; it can be pickled.

    Attributes:
        sample: the directory of the sample.
        id: its id.
        begin: the first row.
        end: the row after the last.
        centroids_KD: float32 [K, D], the prototypes so far.
        device: where to compute.
    """

    sample: Path
    id: str
    begin: int
    end: int
    centroids_KD: NDArray[np.float32]
    device: str

    def __str__(self) -> str:
        return f"rows {self.begin:,} to {self.end - 1:,} of {self.sample}"


def sums_of_part(task: Part, advance: Callable[[int], None]) -> Sums:
    """Return what some rows of the sample contribute to the next prototypes."""
    scores = Scores.open(task.sample)
    if scores.id != task.id:
        raise ConfigError(f"{task.sample} was replaced by another run of the command: give each its own --out")
    sums = lloyd_part(
        scores.column(_COLUMN)[task.begin : task.end], task.centroids_KD, begin=task.begin, device=task.device
    )
    advance(task.end - task.begin)
    return sums
