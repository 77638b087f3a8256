"""A small fixed set of validation rows per domain.

Rules. The rows depend on the split's content, the domains' names and the seed alone. They are the same on every rank,
at every evaluation and after a resume, so that two evaluations differ by the model only. Each row is read by exactly
one rank, and all ranks have equally many batches (a sharded model communicates in forward, so a rank with one batch
more would never return). Ranks do not communicate here: sums are of this rank's rows, and the caller adds them up.
Rows are read from the shards directly; the training plan is not changed.

Shape suffixes: B rows of a batch, K domains in the order of `streams`, R rows of the set, S shards.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os import fspath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from mixstream.argument_kinds import checked
from mixstream.arguments import flag, whole
from mixstream.cached import cached_property
from mixstream.data.assemble import Assembler, Transform, checked_transforms
from mixstream.data.batch import Batch, as_device
from mixstream.data.collate import collate_samples
from mixstream.data.document_masks import DocumentMasks
from mixstream.data.domain import Domain
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError, IndexNotFoundError
from mixstream.lazy import later
from mixstream.loader.dataset import StreamingDataset, overrides
from mixstream.loader.device import deliver
from mixstream.loader.document_options import checked_labels
from mixstream.loader.opening import opened
from mixstream.loader.stream import Stream, prepared
from mixstream.plan.rng import derive_key
from mixstream.plan.shuffle import Order
from mixstream.records import dataclass
from mixstream.types import Addresses, Int64
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.loader.document_setup import document_masks
else:
    (document_masks,) = later("mixstream.loader.document_setup", "document_masks")


Collate = Callable[[list[Any]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """The validation rows of all domains; iterating yields this rank's batches, the same ones each time.

    Batches are like a `Loader`'s: column -> tensor, `"domain"`, and `batch.domain`; `batch.step` is -1. Used by one
    thread at a time.

    Args:
        domains: the domains' validation splits, in the order of the dataset's streams.
        rows: rows per domain; all rows of a domain that has fewer.
        batch_size: rows per batch, at most; rows are spread evenly over as few batches as possible. If 1 would give
            some ranks more batches than others, one batch has 2 rows.
        seed: the seed of the choice of rows.
        world: this rank among those that share the rows.
        device: the device of the tensors; the CPU if not given.
        collate_fn: list of decoded samples -> batch (a dict), instead of gathering.
        widen: return uint16 and uint32 columns as int64.
        transforms: functions from a batch to a batch with the same rows, as for `Loader`.
        documents: adds the columns of documents; None without them.

    Raises:
        ConfigError: a domain has no validation rows, or there are more ranks than rows.
    """

    domains: Domains
    rows: int
    batch_size: int
    seed: int
    world: World
    device: str | torch.device | None = None
    collate_fn: Collate | None = None
    widen: bool = True
    transforms: tuple[Transform, ...] = ()
    documents: DocumentMasks | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "widen", flag("widen", self.widen))
        as_device("device", "cpu" if self.device is None else self.device)
        for what, least in (("rows", 1), ("batch_size", 1), ("seed", None)):
            object.__setattr__(self, what, whole(f"ValidationSet {what}", getattr(self, what), least=least))
        if empty := [domain.name for domain in self.domains if not domain.samples]:
            raise ConfigError(
                f"the validation split of {empty} has no samples: write some, or pass streams=[...] that have samples"
            )
        if self.total < self.world.size:
            raise ConfigError(
                f"{self.total} validation rows are fewer than the {self.world.size} ranks that share them, and every "
                f"rank needs at least one: raise rows={self.rows}"
            )

    @classmethod
    @checked
    def open(
        cls,
        dataset: StreamingDataset,
        *,
        split: str = "val",
        rows: int = 64,
        batch_size: int | None = None,
        streams: Sequence[Stream] | None = None,
        seed: int | None = None,
        device: str | torch.device | None = None,
        collate_fn: Collate | None = None,
        widen: bool = True,
        transforms: Sequence[Transform] = (),
        documents: bool = False,
        labels: str | None = None,
    ) -> Self:
        """Return the validation set of `dataset`, from the directory `split` of each stream.

        It takes the place of the stream's own `split`; a stream without one must have paths that end in "train", and
        `split` is the directory beside that. If a domain has fewer than `rows` rows, all are used, and rank 0 warns.

        Args:
            dataset: the training data; names, order, `batch_size`, seed and ranks are taken from it.
            split: the directory of the validation shards.
            rows: rows per domain, over all ranks.
            batch_size: rows per rank and batch; the dataset's if not given.
            streams: the validation shards themselves, one stream per domain, with the domains' names.
            seed: the dataset's shuffle seed if not given.
            device: as for `Loader`.
            collate_fn: as for `Loader`; needed if the dataset overrides `get_item`.
            widen: as for `Loader`.
            transforms: as for `Loader`; `loader.validation` passes the loader's.
            documents: as for `Loader`, like `labels`; `loader.validation` passes the loader's, too.
            labels: as for `Loader`.

        Raises:
            ConfigError: a stream's validation split is not known, or `streams` are not the dataset's domains.
            IndexNotFoundError: there is no such split.
        """
        if (own := overrides(dataset)) and collate_fn is None:
            raise ConfigError(
                f"{type(dataset).__name__} overrides {own[0]}, which validation rows do not pass through: give "
                "collate_fn=..., from a list of decoded samples to a batch"
            )
        beside = [_sibling(stream, split) for stream in dataset.streams] if streams is None else None
        documents = flag("documents", documents)
        checked_labels(labels, documents=documents)
        listed = _opened(beside, dataset) if beside is not None else _named(streams or (), dataset)
        domains = Domains.of(listed, as_listed=True)
        found = cls(
            domains=domains,
            rows=rows,
            batch_size=dataset.run.run_plan.batch_size if batch_size is None else batch_size,
            seed=dataset.shuffle_seed if seed is None else seed,
            world=dataset.run.run_plan.world,
            device=device,
            collate_fn=collate_fn,
            widen=widen,
            transforms=checked_transforms(transforms),
            documents=document_masks(domains, labels=labels) if documents else None,
        )
        few = {name: n for name, n in zip(found.names, found.rows_K.tolist()) if n < rows}
        if few and found.world.rank == 0:
            warnings.warn(
                f"validation sets are smaller than rows={rows}, as their splits are: {few}; their losses are noisier",
                stacklevel=2,
            )
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The domains, in the order of the dataset's streams."""
        return tuple(domain.name for domain in self.domains.listed)

    @cached_property
    def rows_K(self) -> Int64:
        """Rows of each domain in the set, over all ranks; int64 [K]."""
        return np.array([min(self.rows, domain.samples) for domain in self.domains.listed], dtype=np.int64)

    @property
    def total(self) -> int:
        """Rows of the set, R, over all ranks."""
        return int(self.rows_K.sum())

    @cached_property
    def _batches(self) -> list[Addresses]:
        """This rank's share: every `world.size`-th row of the set, so that each rank gets rows of each domain."""
        parts = [_choice(domain, n, self.seed) for domain, n in zip(self.domains.listed, self.rows_K.tolist())]
        shard_R, row_R = (np.concatenate(part) for part in zip(*parts))
        shard_R += np.repeat(self.domains.shard_offset_K[self.domains.plan_K], self.rows_K)
        domain_R = np.repeat(self.domains.plan_K, self.rows_K)
        mine = [array[self.world.rank :: self.world.size] for array in (domain_R, shard_R, row_R)]
        cuts = zip(*(np.array_split(array, len(self)) for array in mine))
        return [Addresses(domain_B=domain_B, shard_B=shard_B, row_B=row_B) for domain_B, shard_B, row_B in cuts]

    def __len__(self) -> int:
        """Return the number of batches, the same on every rank."""
        largest, smallest = -(-self.total // self.world.size), self.total // self.world.size
        return min(-(-largest // self.batch_size), smallest)  # the second is smaller only for batches of one row

    def __iter__(self) -> Iterator[Batch]:
        """Yield this rank's batches."""
        assembler = Assembler(
            domains=self.domains,
            columns=None if self.collate_fn else self.domains.columns(widen=self.widen),
            alloc=lambda dtype, shape: np.empty(shape, dtype),
            samples=self.domains.samples,
            collate=self.collate_fn or partial(collate_samples, widen=self.widen),
            transforms=self.transforms,
            documents=self.documents,
        )
        device = torch.device(self.device or "cpu")
        for at in self._batches:
            if not isinstance(batch := assembler.assemble(at), Batch):
                raise ConfigError(
                    f"collate_fn returned a {type(batch).__name__}, which cannot have its rows' domains: return a dict"
                )
            yield deliver(batch, device=device, copy=None)

    def describe(self) -> str:
        """Return a table of each domain's rows in the set and in its split."""
        width = max(map(len, ("domain", *self.names)))
        used = zip(self.domains.listed, self.rows_K.tolist())
        lines = [f"{domain.name:{width}}  {n:>4,}  {domain.samples:>8,}" for domain, n in used]
        return "\n".join([f"{'domain':{width}}  rows  of split", *lines])

    def __repr__(self) -> str:
        names = ", ".join(self.names[:4]) + ("…" if len(self.names) > 4 else "")
        return f"ValidationSet([{names}], rows={self.total}, rank {self.world.rank} of {self.world.size})"

    def close(self) -> None:
        """Unmap the shards. The set can be iterated again."""
        self.domains.opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _choice(domain: Domain, rows: int, seed: int) -> tuple[Int64, Int64]:
    """Return (shard, row), int64 [rows] each, of the rows of `domain` that are in the set.

    They are the first of a keyed permutation of all its rows, so a smaller set is part of a larger one.
    """
    key, total = derive_key(seed, "validation", domain.name), domain.samples
    whole = {"owned_L": np.array([total]), "block_size": total}  # one lane, shuffled over all samples
    order = Order(name=domain.name, seed=key, samples_S=domain.samples_S, shuffle=True, **whole)
    _, shard_R, sample_R = order.locate(lane=0, draw_B=np.arange(rows, dtype=np.int64))
    return shard_R, domain.view.rows(shard_R, sample_R)


def _sibling(stream: Stream, split: str) -> Stream:
    """Return `stream` with its validation split, of which all samples count, in place of its own split."""
    if stream.split_by is not None:
        raise ConfigError(
            f"domain {stream.name!r} is a bucket of a stream (split_by={fspath(stream.split_by)!r}), and its {split!r} "
            "rows are in no bucket: pass streams=[...], with a stream for each bucket or one that has a split_by too"
        )
    beside = copy.copy(stream)
    beside.restore_given()  # not the cache of the shards that are trained on
    beside.selection = None  # it was made for the shards that are trained on
    if stream.split == split:
        raise ConfigError(
            f"domain {stream.name!r} is trained on the split {split!r} itself: name another split, or pass "
            "streams=[Stream(name=..., ...), ...] to evaluate on what is trained on"
        )
    if stream.split:
        beside.split = split
        return beside
    places = {key: str(at).rstrip("/") for key, at in (("remote", beside.remote), ("local", beside.local)) if at}
    if not all(at.rsplit("/", 1)[-1] == "train" for at in places.values()):
        raise ConfigError(
            f'domain {stream.name!r} at {stream.location} names no split, and its path does not end in "train", so '
            f'the place of its {split!r} rows is not known: give Stream(..., split="train"), or pass '
            f"streams=[Stream(name={stream.name!r}, ...), ...] with the validation shards' places"
        )
    for key, at in places.items():
        setattr(beside, key, at.removesuffix("train") + split)
    return beside


def _named(streams: Sequence[Stream], dataset: StreamingDataset) -> list[Domain]:
    """Return the domains of `streams` in the order of the dataset's, by their names."""
    inherited = ("download_retry", "download_timeout", "validate_hash", "keep_zip", "durable")
    found = _opened(prepared(streams, {key: getattr(dataset, key) for key in inherited}), dataset)
    by_name = {domain.name: domain for domain in found}
    if set(by_name) != set(dataset.domain_names):
        raise ConfigError(
            f"validation streams are named {sorted(by_name)}, the dataset's domains {sorted(dataset.domain_names)}: "
            "give one stream per domain, each with its `name`"
        )
    return [by_name[name] for name in dataset.domain_names]


def _opened(streams: Sequence[Stream], dataset: StreamingDataset) -> list[Domain]:
    found = []
    for stream in streams:
        try:
            found += opened([stream], allow_unsafe_types=dataset.allow_unsafe_types)[1]
        except IndexNotFoundError as error:
            error.add_note(
                f"domain {stream.name!r} has no validation rows at {stream.location}: write that split (mixstream "
                "convert --val-fraction, larger for a small domain), name another by split=..., or pass streams=[...]"
            )
            raise
    return found
