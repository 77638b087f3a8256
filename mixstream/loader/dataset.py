"""`StreamingDataset`: the arguments and behaviour of mosaicml-streaming's, over mixstream's plan.

It connects other parts and computes nothing itself: an `order.Order` knows what is read when, `resumable` is what
trainers call, `mosaic_api` what programs of mosaicml-streaming read and call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from os import PathLike
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from mixstream.argument_kinds import checked
from mixstream.arguments import shown
from mixstream.data.domains import Domains
from mixstream.data.mixable import refuse_unlike
from mixstream.data.predownload import limited
from mixstream.errors import ConfigError
from mixstream.formats import ARRIVAL
from mixstream.lazy import later, without_collections
from mixstream.loader.callers import Fetching, check_not_divided, check_place_in_lightning, drops_last
from mixstream.loader.megatron_order.options import MegatronOrder, megatron_order
from mixstream.loader.mosaic_api.cache_control import CacheControl
from mixstream.loader.mosaic_api.epoch_tables import EpochTables
from mixstream.loader.mosaic_api.options import check_options
from mixstream.loader.mosaic_api.stream import show_places, show_resolved
from mixstream.loader.mosaic_order.switch import GivenWeights, check_fits, make_order
from mixstream.loader.opening import opened
from mixstream.loader.own_order import OwnOrder
from mixstream.loader.registry import streams_registry
from mixstream.loader.resumable import ResumableIteration
from mixstream.loader.row_sharing import RowSharing
from mixstream.loader.run_setup import Mixing
from mixstream.loader.stream import Stream, listed, prepared
from mixstream.mixers import Binding, Mixer, OpenLoop, Static
from mixstream.types import Addresses
from mixstream.units import parse_bytes
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.loader.megatron_order.mixing import in_megatron_order
    from mixstream.loader.megatron_order.order import MegatronSamples
    from mixstream.loader.megatron_order.switch import check_fits as check_fits_megatron
    from mixstream.loader.row_server import RowServer, knows_rows
else:
    (in_megatron_order,) = later("mixstream.loader.megatron_order.mixing", "in_megatron_order")
    (MegatronSamples,) = later("mixstream.loader.megatron_order.order", "MegatronSamples")
    (check_fits_megatron,) = later("mixstream.loader.megatron_order.switch", "check_fits")
    RowServer, knows_rows = later("mixstream.loader.row_server", "RowServer", "knows_rows")


if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class StoredRow(dict[str, Any]):
    """A sample that is a stored row, and says which.

    Attributes:
        at: its address.
    """

    at: Addresses


class StreamingDataset(ResumableIteration, CacheControl, EpochTables, IterableDataset[dict[str, Any]]):
    """Sharded domains, mixed, as a torch IterableDataset; every rank and worker reads its own rows.

    Takes the arguments of `streaming.StreamingDataset` of mosaicml-streaming. The differences: batches are mixed
    exactly, not on average; neither batches nor states depend on the number of ranks or workers.

    Args:
        streams: the domains; or `remote`, `local` and `split` of the only one.
        remote: where a single domain's shards are stored.
        local: directory of a single domain's raw shards.
        split: sub-directory of both.
        download_retry: attempts per request, at every kind of store; a request to slow down is not counted.
        download_timeout: seconds per request, and seconds to wait for a store that asks to slow down.
        validate_hash: "arrival": shards are checked against the quickest hash that the index has, where it has one,
            when they are downloaded or unpacked. The name of a hash: so are those on disk. None: neither.
        keep_zip: whether compressed shards are kept in the cache beside the raw ones.
        epoch_size: rows of an epoch, for relative weights, also as "100k" or "64m"; all samples if not given.
        predownload: rows per rank (or worker) whose shards are fetched ahead of the row that is read; 8 batches if not
            given.
        cache_limit: bytes on local disk, also as "100gb", that the shards of all streams may take together, over all
            processes. When the cache is full, the shard needed furthest in the future is evicted. None for no limit. It
            must exceed the index files and hold two of the largest shard; a small one is slow, since shards are fetched
            again.
        sampling_method: "balanced": draws go on through a domain from epoch to epoch. "fixed": an epoch that takes some
            of a domain's samples takes the same ones each time.
        sampling_granularity: accepted without effect; samples are chosen from all shards evenly.
        partition_algo: accepted; ranks get slices of the global batch.
        num_canonical_nodes: lanes, independent paths through the shards: a node reads only the shards of its lanes. One
            per node if not given, or those of a loaded state. Lanes that cannot share a global batch evenly are fewer.
        batch_size: rows per rank and step; a DataLoader over the dataset must have the same. Samples keep their stored
            dtypes (torch's uint16 has to be cast before an embedding); `Loader` and `StreamingDataLoader` widen them.
        shuffle: whether to shuffle; without it, and without weights, domains are read one after the other.
        shuffle_algo: "py1e", "py1br" (samples within windows of `shuffle_block_size`), "py1s", "py2s" (within shards),
            "naive" (within the whole domain).
        shuffle_seed: the seed of everything random.
        shuffle_block_size: samples per window; max(4,000,000 / lanes, 262,144) if not given.
        batching_method: "random" or "stratified"; every batch is mixed exactly under both. "per_stream": every global
            batch has rows of one domain, and over batches each domain has its exact share; draws go on through it from
            epoch to epoch. "device_per_stream": likewise for the part of each rank that there was when the run began.
        allow_unsafe_types: whether pickled columns may be decoded.
        replication: the ranks that get the same rows as this one: how many, if they are consecutive; or the slice of a
            torch DeviceMesh, such as mesh["cp", "tp"], or the ProcessGroup, that consists of these ranks.
        stream_name: kind of the single stream, a name in `mixstream.streams_registry`.
        stream_config: further arguments for it.
        mixer: policy for the domains' weights (`mixstream.mixers`); the streams' own, fixed, if not given.
        lag: steps between the newest losses in a weight vector and the first batch that it shapes; constant of a run.
        on_bad_sample: what to do about a sample or shard that cannot be read. "raise": raise the error. "refetch":
            fetch its shard again first (shards of a wrong hash, size or layout always are). "quarantine": set it aside,
            use the domain's next draws in its place, and note that in the state.
        drop_last: drop the rows that do not fill an epoch's last global batch, instead of filling it with repeats.
        rank: of this process, if neither torch.distributed nor RANK is set.
        world_size: number of ranks, likewise; `nodes` is that of their machines, for a lane each, 1 if not given.
        mixed_rows: allow streams whose rows do not stack, for a collate_fn that makes batches of them.
        order: "mixstream", or "mosaic" for the samples of mosaicml-streaming 0.13 in its order, with its states: to go
            on from a checkpoint of that package. It takes O(samples) memory and time per epoch, and fixed weights only.
            "megatron", or a `MegatronOrder`, for `.bin/.idx` pairs in the order of Megatron-LM (docs/tokens.md).
        loss_parts: those of the ranks that get the same rows that each have the losses of a part of every row, as in
            context parallelism: mesh["cp"]; given like `replication`. Without it, they report copies, or None.
        durable: whether shards in the cache and lines of the mixing log survive a power cut: each is on the disk before
            it counts. Without it, shards that the disk has lost are found by `validate_hash="xxh3_64"`.
    """

    addressed = False
    """Whether samples are `StoredRow`s, for `DocumentCollate`."""

    @checked
    def __init__(
        self,
        *,
        streams: Sequence[Stream] | None = None,
        remote: str | PathLike[str] | None = None,
        local: str | PathLike[str] | None = None,
        split: str | None = None,
        download_retry: int = 2,
        download_timeout: float = 60.0,
        validate_hash: str | None = ARRIVAL,
        keep_zip: bool = False,
        epoch_size: int | str | None = None,
        predownload: int | None = None,
        cache_limit: int | str | None = None,
        sampling_method: str = "balanced",
        sampling_granularity: int = 1,
        partition_algo: str = "relaxed",
        num_canonical_nodes: int | None = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        shuffle_algo: str = "py1e",
        shuffle_seed: int = 9176,
        shuffle_block_size: int | None = None,
        batching_method: str = "random",
        allow_unsafe_types: bool = False,
        replication: int | DeviceMesh | ProcessGroup | None = None,
        stream_name: str = "stream",
        stream_config: Mapping[str, Any] | None = None,
        mixer: Mixer | OpenLoop | Static | Binding | None = None,
        lag: int = 16,
        on_bad_sample: str = "raise",
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        nodes: int | None = None,
        mixed_rows: bool = False,
        order: str | MegatronOrder = "mixstream",
        loss_parts: int | DeviceMesh | ProcessGroup | None = None,
        durable: bool = False,
    ) -> None:
        megatron = megatron_order(order)
        self._sharing = RowSharing.of(replication, loss_parts, given_world=(rank, world_size, nodes))
        given = SimpleNamespace(
            **check_options(
                epoch_size=epoch_size,
                predownload=predownload,
                sampling_method=sampling_method,
                sampling_granularity=sampling_granularity,
                partition_algo=partition_algo,
                num_canonical_nodes=num_canonical_nodes,
                batch_size=batch_size,
                shuffle=shuffle,
                shuffle_algo=shuffle_algo,
                shuffle_seed=shuffle_seed,
                shuffle_block_size=shuffle_block_size,
                batching_method=batching_method,
                allow_unsafe_types=allow_unsafe_types,
                replication=self._sharing.replicas,
                keep_zip=keep_zip,
                durable=durable,
                lag=lag,
                on_bad_sample=on_bad_sample,
                drop_last=drop_last,
                mixed_rows=mixed_rows,
                order=order if megatron is None else "megatron",
            )
        )
        streams = None if streams is None else listed(streams)  # of an array, too
        if bool(streams) == (remote is not None or local is not None):
            raise ConfigError("You must provide either `streams` or `remote`/`local`, but not both.")
        defaults = {"download_retry": download_retry, "download_timeout": download_timeout}
        defaults |= {"validate_hash": validate_hash, "keep_zip": given.keep_zip}
        single = {"remote": remote, "local": local, "split": split, **defaults, **(stream_config or {})}
        defaults["durable"] = given.durable  # what a kind of stream of the user's need not know
        self.streams = prepared(streams or [streams_registry.get(stream_name)(**single)], defaults)
        self.batch_size, self.shuffle, self.drop_last = given.batch_size, given.shuffle, given.drop_last
        self.shuffle_algo, self.shuffle_seed = given.shuffle_algo, given.shuffle_seed
        self.shuffle_block_size, self.num_canonical_nodes = given.shuffle_block_size, given.num_canonical_nodes
        self.sampling_method, self.sampling_granularity = given.sampling_method, given.sampling_granularity
        self.partition_algo, self.batching_method = given.partition_algo, given.batching_method
        self.predownload, self.replication, self.lag = given.predownload, given.replication, given.lag
        self.cache_limit = None if cache_limit is None else parse_bytes(cache_limit, name="cache_limit")
        self.on_bad_sample, self.stream_name, self.mixer = given.on_bad_sample, stream_name, mixer
        self.order, self.durable = given.order, given.durable
        self.download_retry, self.download_timeout = download_retry, download_timeout
        self.validate_hash, self.keep_zip, self.allow_unsafe_types = (
            validate_hash,
            given.keep_zip,
            given.allow_unsafe_types,
        )
        if given.order == "mosaic":
            check_fits(self)
        if megatron is not None:
            check_fits_megatron(self, megatron, epoch_size=given.epoch_size)
        with without_collections():  # of 10,000 domains there are a million objects, and all of them stay
            self.streams, found = opened(self.streams, allow_unsafe_types=self.allow_unsafe_types)
            mixing = None
            if megatron is not None:
                found, mixing = in_megatron_order(self, megatron, found, epoch_size=given.epoch_size)
            if not given.mixed_rows:
                refuse_unlike(found, stacked=not overrides(self))
            mixing = mixing or Mixing.of(self, found, epoch_size=given.epoch_size)
            self.domains = limited(Domains.of(found, as_listed=mixing.in_order), self.cache_limit)
            self.given_weights = GivenWeights.of(self.streams, given.epoch_size)
            counts = mixing.counts(self.streams, self.domains, epoch_size=given.epoch_size, seed=self.shuffle_seed)
            self.epoch_size, self._given_world = counts.rows, (rank, world_size, nodes)
            self.ranks()  # refuses those that do not belong together
            if given.order == "mosaic":
                self._begin_run(make_order(self, self.given_weights.show(self)))
            elif megatron is not None:
                self._begin_run(MegatronSamples(self, mixing=mixing, counts=counts))
            else:
                self._begin_run(OwnOrder(self, mixing=mixing, counts=counts))
        show_places(self.streams, self.domains.listed)
        if streams:
            show_resolved(streams, self.streams)

    def reading(self, world: World) -> World:
        """Return the ranks of the run, of which each reads other rows, that the ranks `world` of the job make."""
        return self._sharing.of_run(world)

    def __len__(self) -> int:
        """Return the number of samples that this rank gets per epoch.

        For the length of a DataLoader with `drop_last`, an epoch has no step that is filled up with repeats.
        """
        return self._order.samples_per_rank(self, filled=not drops_last(self))

    def samples_at(self, at: Addresses) -> list[Any]:
        """Return the samples at these addresses; by number if a subclass returns samples of its own."""
        if overrides(self):
            return [self[number] for number in self.number(at).tolist()]
        found = self.domains.samples(at)
        if not self.addressed:
            return found
        rows = [StoredRow(sample) for sample in found]
        for i, row in enumerate(rows):
            row.at = at[i : i + 1]
        return rows

    def serving(self, run: Any, fetching: Fetching | None) -> RowServer:
        """Return what reads the rows of `run` for an iterator of this dataset that a DataLoader takes `fetching` from.

        Rows are read together where they are those that are stored, and whoever gets them need not know which.
        """
        stored = [
            getattr(type(self), name) is getattr(StreamingDataset, name)
            for name in ("__getitem__", "get_item", "samples_at", "sample_at")
        ]
        together = all(stored) and (not self.addressed or knows_rows(fetching.collate if fetching else None))
        return RowServer(reader=run.reader(self.domains), make=self.sample_at, together=together, fetching=fetching)

    def places(self) -> list[tuple[str, str]]:
        """Return each domain's name and where it is, as it was given."""
        return [(str(stream.name), stream.location) for stream in self.streams]

    def __getstate__(self) -> dict[str, Any]:
        if self.batch_size is not None:
            run_plan = self.run.run_plan  # a spawned worker has no torch.distributed, and cannot find its rank
            if get_spawning_popen() is not None:
                check_not_divided(run_plan.world)
                check_place_in_lightning(at_start=not self.loads and not self.next_epoch, states_follow=True)
        return self.__dict__ | {"saver": None}


def overrides(dataset: StreamingDataset) -> list[str]:
    """Return the names of the methods by which a subclass of `StreamingDataset` changes what a sample is."""
    names = ("__getitem__", "get_item")
    return [name for name in names if getattr(type(dataset), name) is not getattr(StreamingDataset, name)]


def check_is_dataset(dataset: Any) -> None:
    """Raise ConfigError if `dataset` is no `StreamingDataset`."""
    if not isinstance(dataset, StreamingDataset):
        raise ConfigError(f"`dataset` is a mixstream.StreamingDataset, got {shown(dataset)}")


def check_iterates_as_planned(dataset: StreamingDataset, loader: str) -> None:
    """Check that no subclass changes which rows come one after the other, which `loader` knows from the plan.

    Raises:
        ConfigError: it overrides `__iter__`.
    """
    if type(dataset).__iter__ is not StreamingDataset.__iter__:
        raise ConfigError(
            f"{type(dataset).__name__} overrides __iter__, and {loader} says by the plan which step and domains the "
            "rows of a batch are: reports and states would be of other rows. Override __getitem__ or get_item, which "
            "change a sample; or use torch.utils.data.DataLoader or torchdata's StatefulDataLoader over the dataset"
        )
