"""`StreamingDataset`: the arguments and behaviour of mosaicml-streaming's, over mixstream's plan.

It connects other parts and computes nothing itself: `run.Run` knows what to draw, `workers.EpochClaims` which epoch an
`iter()` is.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from mixstream.data.bad_samples import Quarantine
from mixstream.data.domains import Domains
from mixstream.data.predownload import Predownloader, limited, warn_of_refetching
from mixstream.distributed import detect_world
from mixstream.errors import ConfigError
from mixstream.loader.checkpoint import Checkpoint, Epochs, Position
from mixstream.loader.mosaic_api import ShardTables, check_options
from mixstream.loader.opening import opened
from mixstream.loader.run import Run, mixing_method
from mixstream.loader.stream import Stream, bound, epoch_counts, prepared
from mixstream.loader.workers import EpochClaims
from mixstream.mixers import Binding, Mixer, OpenLoop, Static
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.shuffle import window_size
from mixstream.plan.state import parse_state
from mixstream.plan.walk import ExhaustionWarnings
from mixstream.types import Addresses, Cursor, Weights
from mixstream.units import parse_bytes, parse_count
from mixstream.world import World


class StreamingDataset(ShardTables, IterableDataset[dict[str, Any]]):
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
        sampling_method: accepted; draws go on through a domain from epoch to epoch, so nothing is sampled twice.
        sampling_granularity: accepted, as above.
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
        world_size: number of ranks, likewise.
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
    ) -> None:
        check_options(
            sampling_method=sampling_method,
            sampling_granularity=sampling_granularity,
            partition_algo=partition_algo,
            shuffle_algo=shuffle_algo,
            shuffle_seed=shuffle_seed,
            shuffle_block_size=shuffle_block_size,
            batching_method=batching_method,
            predownload=predownload,
            on_bad_sample=on_bad_sample,
        )
        if bool(streams) == (bool(remote) or bool(local)):
            raise ConfigError("You must provide either `streams` or `remote`/`local`, but not both.")
        single = {"remote": remote, "local": local, "split": split, **(stream_config or {})}
        defaults = {"download_retry": download_retry, "download_timeout": download_timeout}
        defaults |= {"validate_hash": validate_hash, "keep_zip": keep_zip}
        self.streams = prepared(streams or [Stream(**single)], defaults)
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.shuffle_algo, self.shuffle_seed, self.shuffle_block_size = shuffle_algo, shuffle_seed, shuffle_block_size
        self.num_canonical_nodes, self.replication = num_canonical_nodes, replication
        self.sampling_method, self.sampling_granularity = sampling_method, sampling_granularity
        self.partition_algo, self.batching_method = partition_algo, batching_method
        self.predownload = predownload if predownload is not None else 8 * batch_size if batch_size else 64
        self.cache_limit = None if cache_limit is None else parse_bytes(cache_limit)
        self.on_bad_sample = on_bad_sample
        self.download_retry, self.download_timeout = download_retry, download_timeout
        self.validate_hash, self.keep_zip, self.allow_unsafe_types = validate_hash, keep_zip, allow_unsafe_types
        self.stream_name, self.mixer, self.lag = stream_name, mixer, lag
        self.streams, found = opened(self.streams, allow_unsafe_types=allow_unsafe_types)
        self._policy = bound(mixer, found)
        rows = parse_count(epoch_size) if epoch_size else None
        if rows is not None and rows < 1:
            raise ConfigError(f"epoch_size={epoch_size!r} must be at least 1 row; leave it out for all samples")
        if not isinstance(lag, int) or lag < 0:
            raise ConfigError(f"lag={lag!r} must be a whole number of steps, 0 or more")
        samples = [domain.samples for domain in found]
        choose_K, weighted = epoch_counts(self.streams, samples, self._policy, rows, shuffle_seed)
        self.epoch_size = self.length = int(choose_K.sum())
        self._in_order = not (shuffle or weighted or self._policy is not None or batching_method == "stratified")
        self.domains = limited(Domains.of(found, as_listed=self._in_order), self.cache_limit)
        self._choose_K = choose_K[self.domains.listed_K]
        self._quarantine = Quarantine(self.domains)
        self._given_world = (rank, world_size)
        detect_world(rank, world_size)
        self._checkpoint: Checkpoint | None = None
        self._epochs: Epochs | None = None  # from the start or the checkpoint on; None until they are asked for
        self._claims = EpochClaims()
        self.announce = True  # whether iterating warns of domains that leave; a loader over the dataset warns itself
        self.loads = 0  # how often a state was loaded, by which loaders notice it
        self.weights_source: Weights | None = None  # set by a loader that runs a learning mixer

    @property
    def run(self) -> Run:
        """The run, for the ranks that there are now; workers keep the run of their parent."""
        return self.position.run

    @property
    def position(self) -> Position:
        """Where the run goes on: step 0, or the state that was loaded."""
        return self._current_epochs().position

    def _current_epochs(self) -> Epochs:
        epochs = self._epochs
        if epochs is None or get_worker_info() is None:  # a process that is not a worker may have become a rank
            world = detect_world(*self._given_world)
            if epochs is None or epochs.world != world:
                epochs = self._epochs = Epochs(world, self._position_of(world, self._checkpoint))
        return epochs

    def forget_run(self) -> None:
        """Let the run be assembled again, because an option that it depends on has changed."""
        self._epochs = None

    def _position_of(self, world: World, checkpoint: Checkpoint | None) -> Position:
        """Return the place of `checkpoint`, or step 0, in the run that the ranks `world` make of it."""
        domains, mixer = self.domains, self._policy
        lanes = self.num_canonical_nodes
        if lanes is None:  # a state has its own
            lanes = checkpoint.state.num_canonical_nodes if checkpoint is not None else world.nodes
        run_plan = RunPlan(
            domains=domains.domains,  # type: ignore[arg-type] - pyright takes no cached property for a property
            choose_K=self._choose_K,
            epoch_size=self.epoch_size,
            max_epochs_K=tuple(self.streams[k].max_epochs for k in domains.listed_K.tolist()),
            by_step=mixer is not None and not isinstance(mixer, Static),
            in_order=self._in_order,
            shuffle=self.shuffle,
            shuffle_seed=self.shuffle_seed,
            block_size=window_size(self.shuffle_algo, self.shuffle_block_size, lanes),
            drop_last=self.drop_last,
            mixer=mixing_method(mixer, in_order=self._in_order),
            lag=self.lag if isinstance(mixer, Mixer) else None,
            world=world.replicated(self.replication) if self.replication else world,
            batch_size=self.batch_size,  # type: ignore[arg-type] - RunPlan refuses None
            lanes=lanes,
            source_K=domains.source_K,
            family_K=tuple(domain.whole.name if domain.whole is not None else None for domain in domains),
        )
        warn_of_refetching(run_plan, domains, self.cache_limit)
        run = Run(
            run_plan=run_plan,
            domains=domains,
            mixer=mixer,
            on_bad_sample=self.on_bad_sample,
            quarantine=self._quarantine,
        )
        return Position(run, checkpoint)

    def __len__(self) -> int:
        """Return the number of samples that this rank gets per epoch."""
        run = self.run
        return run.plan.steps_per_epoch * run.run_plan.batch_size

    # --- iteration ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Yield this rank's (and, in a DataLoader worker, this worker's) samples of the next epoch.

        A DataLoader over it must have the same `batch_size`, since worker w yields the steps w, w + workers, ….
        """
        run = self.run
        if isinstance(self._policy, Mixer) and self.weights_source is None:
            raise ConfigError(
                f"{type(self.mixer).__name__} learns from losses, which a plain DataLoader cannot report: "
                "use mixstream.Loader or mixstream.StreamingDataLoader"
            )
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        weights = self.weights_source or run.weights(None)
        claim, epochs = self._claims.claim(), self._current_epochs()
        walk = run.walk(epochs.begin(claim), weights)
        exhaustion = ExhaustionWarnings(run.plan, walk.cursor)
        reader = run.reader(self.domains)
        ahead = self.predownload * workers
        with closing(Predownloader(run_plan=run.run_plan, domains=self.domains, ahead=ahead)) as predownloader:
            for step in range(walk.steps_left):
                predownloader.look_ahead(walk.cursor, weights)
                if (rows := walk.advance()) is None:
                    if worker == 0 and self.announce:
                        warnings.warn(exhaustion.end(walk.cursor), stacklevel=2)
                    return
                if worker == 0 and self.announce:
                    exhaustion.check(walk.cursor)
                if step % workers == worker:
                    (at,) = run.run_plan.addressing.locate([rows], run.run_plan.part)
                    yield from reader.each(rows, at, lambda at: self.samples_at(at)[0])
        epochs.reach(claim + 1, walk.cursor)

    def samples_at(self, at: Addresses) -> list[Any]:
        """Return the samples at these addresses; by number if a subclass returns samples of its own."""
        if overrides(self):
            return [self[number] for number in self.number(at).tolist()]
        return self.domains.samples(at)

    def begin_at(self, cursor: Cursor) -> None:
        """Let the next `iter()` begin at `cursor`; for loaders, which keep the position themselves."""
        epochs = self._current_epochs()
        self._epochs, self.announce = Epochs(epochs.world, epochs.position, start=cursor), False
        self._claims.reset()

    @property
    def next_epoch(self) -> int:
        """The epoch that the next `iter()` begins."""
        loaded = self._checkpoint.state.epoch if self._checkpoint is not None else 0
        return (self._epochs.start.epoch if self._epochs is not None else loaded) + self._claims.count

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self, num_samples: int = 0, from_beginning: bool = True) -> dict[str, Any]:
        """Return the state after `num_samples` samples, over all ranks, of the running epoch.

        For trainers with a plain DataLoader, which count samples themselves; `StreamingDataLoader` and `Loader` know
        their position.

        Args:
            num_samples: samples handed to the model, a multiple of the global batch.
            from_beginning: count them from the epoch's beginning, not from a loaded state's place in it.
        """
        if isinstance(self._policy, Mixer):
            raise ConfigError(
                f"{type(self.mixer).__name__} learns from losses, and the loader has what it learned: save "
                "loader.state_dict() of mixstream.Loader or mixstream.StreamingDataLoader"
            )
        run, epochs = self.run, self._current_epochs()
        cursor = epochs.begin(max(self._claims.count - 1, 0))
        steps, odd = divmod(num_samples, run.plan.global_batch_size)
        if odd:
            raise ConfigError(
                f"{num_samples} samples are not a whole number of global batches of {run.plan.global_batch_size} rows; "
                "take states between steps"
            )
        steps -= cursor.step_in_epoch if from_beginning and cursor is epochs.start else 0
        if steps < 0:
            raise ConfigError(
                f"{num_samples} samples from the epoch's beginning lie before the state that this run goes on from "
                f"({cursor.step_in_epoch * run.plan.global_batch_size} samples): count all of the epoch's samples"
            )
        walk = run.walk(cursor, run.weights(None))
        for _ in range(steps):
            walk.advance()
        return run.document(walk.cursor, None)

    def load_state_dict(self, obj: Mapping[str, Any], strict: bool = True) -> None:
        """Go on from a state, saved by any rank of a run with any number of ranks and workers.

        Args:
            obj: from `state_dict`.
            strict: refuse a state of another run (other domains, seed, batch size, lanes, …); False keeps the positions
                of the domains that are still there.

        Raises:
            StateError: the state does not fit; the message says why.
        """
        checkpoint, world = Checkpoint(state=parse_state(obj), strict=strict), detect_world(*self._given_world)
        position = self._position_of(world, checkpoint)
        _ = position.found  # refuses a state of another run, before anything has changed
        self._checkpoint, self._epochs, self.loads = checkpoint, Epochs(world, position), self.loads + 1
        self._claims.reset()

    def __getstate__(self) -> dict[str, Any]:
        if self.batch_size is not None:
            _ = self.run  # a spawned worker has no torch.distributed, and cannot find its rank
        return self.__dict__.copy()


def overrides(dataset: StreamingDataset) -> list[str]:
    """Return the names of the methods by which a subclass of `StreamingDataset` changes what a sample is."""
    names = ("__getitem__", "get_item")
    return [name for name in names if getattr(type(dataset), name) is not getattr(StreamingDataset, name)]
