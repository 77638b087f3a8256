"""`StreamingDataset`: the arguments and behaviour of mosaicml-streaming's, over mixstream's plan.

It connects other parts and computes nothing itself: `run.Run` knows what to draw, `resumable` how it is iterated.
"""

from collections.abc import Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from types import SimpleNamespace
from typing import Any

from torch.utils.data import IterableDataset

from mixstream.data.bad_samples import Quarantine
from mixstream.data.domains import Domains
from mixstream.data.mixable import refuse_unlike
from mixstream.data.predownload import limited, warn_of_refetching
from mixstream.distributed import detect_world
from mixstream.errors import ConfigError
from mixstream.loader.callers import check_not_divided, drops_last
from mixstream.loader.checkpoint import Checkpoint, Position
from mixstream.loader.mosaic_api import ShardTables, check_options
from mixstream.loader.opening import opened
from mixstream.loader.replayed import fixed_plan, logged_counts, logged_lanes, warn_of_other_settings
from mixstream.loader.resumable import ResumableIteration
from mixstream.loader.run import Run, mixing_method
from mixstream.loader.stream import Stream, bound, epoch_counts, prepared, weighted
from mixstream.mixers import Binding, Mixer, OpenLoop, Static
from mixstream.plan.fixed_sample import sampled
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.shuffle import window_size
from mixstream.plan.state_carry import with_shares
from mixstream.types import Addresses
from mixstream.units import parse_bytes
from mixstream.world import World


class StreamingDataset(ShardTables, ResumableIteration, IterableDataset[dict[str, Any]]):
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
        validate_hash: hash that shards are checked against, both downloaded ones and those on disk; None for none.
        keep_zip: whether compressed shards are kept in the cache beside the raw ones.
        epoch_size: rows of an epoch, for relative weights, also as "100k" or "64m"; all samples if not given.
        predownload: rows per rank (or worker) whose shards are fetched ahead of the row that is read; 8 batches if not
            given.
        cache_limit: bytes on local disk, also as "100gb", that the shards of all streams may take together, over all
            processes. When the cache is full, the shard needed furthest in the future is evicted. None for no limit.
        sampling_method: "balanced": draws go on through a domain from epoch to epoch. "fixed": an epoch that takes some
            of a domain's samples takes the same ones each time.
        sampling_granularity: accepted without effect; samples are chosen from all shards evenly.
        partition_algo: accepted; ranks get slices of the global batch.
        num_canonical_nodes: lanes, independent paths through the shards: a node reads only the shards of its lanes. One
            per node if not given, or those of a loaded state.
        batch_size: rows per rank and step; a DataLoader over the dataset must have the same. Samples keep their stored
            dtypes (torch's uint16 has to be cast before an embedding); `Loader` and `StreamingDataLoader` widen them.
        shuffle: whether to shuffle; without it, and without weights, domains are read one after the other.
        shuffle_algo: "py1e", "py1br" (samples within windows of `shuffle_block_size`), "py1s", "py2s" (within shards),
            "naive" (within the whole domain).
        shuffle_seed: the seed of everything random.
        shuffle_block_size: samples per window; max(4,000,000 / lanes, 262,144) if not given.
        batching_method: "random" or "stratified"; every batch is mixed exactly under both.
        allow_unsafe_types: whether pickled columns may be decoded.
        replication: how many consecutive ranks get the same rows.
        stream_name: accepted; there is one kind of stream.
        stream_config: further arguments for the single stream.
        mixer: policy for the domains' weights (`mixstream.mixers`); the streams' own, fixed, if not given.
        lag: steps between the newest losses in a weight vector and the first batch that it shapes; constant of a run.
        on_bad_sample: what to do about a sample or shard that cannot be read. "raise": raise the error. "refetch":
            fetch its shard again first (shards of a wrong hash, size or layout always are). "quarantine": set it aside,
            use the domain's next draws in its place, and note that in the state.
        drop_last: drop the rows that do not fill an epoch's last global batch, instead of filling it with repeats.
        rank: of this process, if neither torch.distributed nor RANK is set.
        world_size: number of ranks, likewise; `nodes` is that of their machines, for a lane each, 1 if not given.
        mixed_rows: allow streams whose rows do not stack, for a collate_fn that makes batches of them.
    """

    def __init__(
        self,
        *,
        streams: Sequence[Stream] | None = None,
        remote: str | None = None,
        local: str | None = None,
        split: str | None = None,
        download_retry: int = 2,
        download_timeout: float = 60.0,
        validate_hash: str | None = None,
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
        replication: int | None = None,
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
    ) -> None:
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
                replication=replication,
                keep_zip=keep_zip,
                lag=lag,
                on_bad_sample=on_bad_sample,
                drop_last=drop_last,
                mixed_rows=mixed_rows,
            )
        )
        if bool(streams) == (remote is not None or local is not None):
            raise ConfigError("You must provide either `streams` or `remote`/`local`, but not both.")
        single = {"remote": remote, "local": local, "split": split, **(stream_config or {})}
        defaults = {"download_retry": download_retry, "download_timeout": download_timeout}
        defaults |= {"validate_hash": validate_hash, "keep_zip": given.keep_zip}
        self.streams = prepared(streams or [Stream(**single)], defaults)
        self.batch_size, self.shuffle, self.drop_last = given.batch_size, given.shuffle, given.drop_last
        self.shuffle_algo, self.shuffle_seed = given.shuffle_algo, given.shuffle_seed
        self.shuffle_block_size, self.num_canonical_nodes = given.shuffle_block_size, given.num_canonical_nodes
        self.sampling_method, self.sampling_granularity = given.sampling_method, given.sampling_granularity
        self.partition_algo, self.batching_method = given.partition_algo, given.batching_method
        self.predownload, self.replication, self.lag = given.predownload, given.replication, given.lag
        self.cache_limit = None if cache_limit is None else parse_bytes(cache_limit, name="cache_limit")
        self.on_bad_sample, self.stream_name, self.mixer = given.on_bad_sample, stream_name, mixer
        self.download_retry, self.download_timeout = download_retry, download_timeout
        self.validate_hash, self.keep_zip, self.allow_unsafe_types = (
            validate_hash,
            given.keep_zip,
            given.allow_unsafe_types,
        )
        self.streams, found = opened(self.streams, allow_unsafe_types=self.allow_unsafe_types)
        if not given.mixed_rows:
            refuse_unlike(found, stacked=not overrides(self))
        self._policy = bound(mixer, found)
        samples = [domain.samples for domain in found]
        weighs = weighted(self.streams, self._policy, given.epoch_size)
        if (logged := fixed_plan(self._policy)) is not None:
            self._policy = None
        if given.sampling_method == "fixed" and isinstance(self._policy, Mixer | OpenLoop):
            raise ConfigError(
                f'sampling_method="fixed" takes the same samples in each epoch, and {type(mixer).__name__} changes how '
                'many an epoch takes: use sampling_method="balanced", or fixed weights'
            )
        stratified = given.batching_method == "stratified"
        self._in_order = not (given.shuffle or weighs or self._policy is not None or stratified)
        self._in_order = self._in_order if logged is None else logged.in_order
        self.domains = limited(Domains.of(found, as_listed=self._in_order), self.cache_limit)
        listed_K = self.domains.listed_K
        size: dict[str, Any] = {"epoch_size": given.epoch_size, "order_K": listed_K}
        self._counts = (
            epoch_counts(self.streams, samples, mixer=self._policy, seed=self.shuffle_seed, **size)
            if logged is None
            else logged_counts(logged, self.streams, samples, **size)
        )
        self.epoch_size = self.length = self._counts.rows
        self._quarantine = Quarantine(self.domains)
        self._given_world = (rank, world_size, nodes)
        detect_world(rank, world_size, nodes)
        self._begin_run()

    def forget_run(self) -> None:
        """Let the run be assembled again, because an option that it depends on has changed."""
        self._epochs = None

    def _position_of(self, world: World, checkpoint: Checkpoint | None, quarantine: Quarantine) -> Position:
        """Return the place of `checkpoint`, or step 0, in the run that the ranks `world` make of it."""
        domains, mixer = self.domains, self._policy
        lanes, saved = self.num_canonical_nodes, checkpoint.state.settings.mixer if checkpoint is not None else None
        if lanes is None:  # a state has its own
            lanes = logged_lanes(self.mixer) or world.nodes
            lanes = checkpoint.state.num_canonical_nodes if checkpoint is not None else lanes
        counts, planned = self._counts, domains.domains
        if fixed := self.sampling_method == "fixed":
            chosen = zip(planned, counts.choose_K.tolist())
            planned = tuple(sampled(domain, samples=n, seed=self.shuffle_seed) for domain, n in chosen)
        run_plan = RunPlan(
            domains=planned,  # type: ignore[arg-type] - pyright takes no cached property for a property
            choose_K=counts.choose_K,
            share_K=None if fixed else counts.share_K,
            epoch_size=self.epoch_size,
            max_epochs_K=tuple(self.streams[k].max_epochs for k in domains.listed_K.tolist()),
            by_step=mixer is not None and not isinstance(mixer, Static),
            in_order=self._in_order,
            shuffle=self.shuffle,
            shuffle_seed=self.shuffle_seed,
            block_size=window_size(self.shuffle_algo, self.shuffle_block_size, lanes),
            drop_last=self.drop_last,
            mixer=mixing_method(mixer, in_order=self._in_order, saved=saved),
            lag=self.lag if isinstance(mixer, Mixer) else None,
            world=world.replicated(self.replication) if self.replication else world,
            batch_size=self.batch_size,  # type: ignore[arg-type] - RunPlan refuses None
            lanes=lanes,
            source_K=domains.source_K,
            family_K=tuple(domain.whole.name if domain.whole is not None else None for domain in domains),
        )
        if checkpoint is not None:
            run_plan = with_shares(run_plan, checkpoint.state)
        warn_of_other_settings(self.mixer, run_plan)
        warn_of_refetching(run_plan, domains, self.cache_limit)
        run = Run(
            run_plan=run_plan,
            domains=domains,
            mixer=mixer,
            on_bad_sample=self.on_bad_sample,
            quarantine=quarantine,
        )
        return Position(run, checkpoint)

    def __len__(self) -> int:
        """Return the number of samples that this rank gets per epoch.

        For the length of a DataLoader with `drop_last`, an epoch has no step that is filled up with repeats.
        """
        run_plan = self.run.run_plan
        steps = run_plan.plan.steps_per_epoch
        if run_plan.plan.choose_K is not None and drops_last(self):
            steps = run_plan.plan.epoch_size // run_plan.plan.global_batch_size
        return steps * run_plan.batch_size

    def samples_at(self, at: Addresses) -> list[Any]:
        """Return the samples at these addresses; by number if a subclass returns samples of its own."""
        if overrides(self):
            return [self[number] for number in self.number(at).tolist()]
        return self.domains.samples(at)

    def __getstate__(self) -> dict[str, Any]:
        if self.batch_size is not None:
            run_plan = self.run.run_plan  # a spawned worker has no torch.distributed, and cannot find its rank
            if get_spawning_popen() is not None:
                check_not_divided(run_plan.world)
        return self.__dict__ | {"_iteration": None}


def overrides(dataset: StreamingDataset) -> list[str]:
    """Return the names of the methods by which a subclass of `StreamingDataset` changes what a sample is."""
    names = ("__getitem__", "get_item")
    return [name for name in names if getattr(type(dataset), name) is not getattr(StreamingDataset, name)]


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
