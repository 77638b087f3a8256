"""Which stage starves the trainer, in words, and what helps: a line or two of `describe`.

Rules. The blame is measured, not guessed: what the thread that makes batches did while the trainer waited for it. A
remedy is given only where the numbers show that it would work.
"""

from collections.abc import Callable
from typing import Self

from mixstream.formats import ARRIVAL
from mixstream.loader.dataset import StreamingDataset, overrides
from mixstream.loader.stats import LoaderStats
from mixstream.metering import STAGES
from mixstream.records import dataclass
from mixstream.units import show_bytes

_HARDLY = 0.01  # of the time: waiting that no one has to look at
_BUSY = 0.8  # of the time with requests under way: the line is full, and asking earlier does not help
_SHOWN = 0.1  # of the waiting: stages below it are not named


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that remedies name, as they are.

    Attributes:
        predownload: rows ahead of which shards are fetched.
        cache_limit: bytes; None for no limit.
        lag: of the run; None where nothing learns.
        hashed: the hash that shards on disk are checked against; None if they are not.
        widen: whether batches are wider than what is stored.
        samples: why samples are read one by one; None where rows are gathered.
        workers: DataLoader workers; 0 where the trainer's thread reads, None where another thread does.
    """

    predownload: int
    cache_limit: int | None = None
    lag: int | None = None
    hashed: str | None = None
    widen: bool = False
    samples: str | None = None
    workers: int | None = None

    @classmethod
    def of(
        cls, dataset: StreamingDataset, *, collate_fn: object, widen: bool, lag: int | None, workers: int | None = None
    ) -> Self:
        """Return the options of a loader over `dataset`."""
        columns = {wide: dataset.domains.columns(widen=wide) or {} for wide in {False, widen}}
        own = [f"{type(dataset).__name__} overrides {name}" for name in overrides(dataset)]
        return cls(
            predownload=dataset.predownload,
            cache_limit=dataset.cache_limit,
            lag=lag,
            hashed=dataset.validate_hash if dataset.validate_hash != ARRIVAL else None,
            widen=any(column.dtype != columns[False][name].dtype for name, column in columns[widen].items()),
            samples=", ".join(own + ["a collate_fn is given"] * (collate_fn is not None)) or None,
            workers=workers,
        )


def starving(stats: LoaderStats, options: Options) -> list[str]:
    """Return in words how long the trainer waited, for which stages, and what helps.

    >>> fast = LoaderStats(seconds=10.0, batches=100, wait=0.004, first=0.2)
    >>> starving(fast, Options(predownload=64))
    ['stages   the trainer never waited for a batch, but 0.20 s for the first']
    >>> slow = LoaderStats(seconds=10.0, batches=100, wait=4.0, waited_for={"shards": 3.0, "gather": 1.0}, fetching=3.0,
    ...                    fetch=12.0, store_bytes=354 << 20, requests=90, fetched=40, misses=30, hits=10)
    >>> for line in starving(slow, Options(predownload=64)):
    ...     print(line)
    stages   the trainer waited 40% of the time for batches (4.00 of 10.00 s)
             meanwhile 75% waiting for shards (from stores at 118.0 MiB/s over 4.0 requests at once)
             meanwhile 25% gathering rows
             shards come too late, and no request was under way for 70% of the time: raise predownload=64
    """
    if not stats.batches:
        return []
    first = f", but {stats.first:.2f} s for the first" if stats.first >= 0.1 else ""
    if stats.wait_share < _HARDLY:
        hardly = f" ({stats.wait_share:.1%} of the time went into taking them)" if stats.wait_share >= 0.001 else ""
        return [f"stages   the trainer never waited for a batch{hardly}{first}"]
    whole = stats.seconds - stats.first
    spent = f"({stats.wait:.2f} of {whole:.2f} s){first}"
    lines = [f"stages   the trainer waited {stats.wait_share:.0%} of the time for batches {spent}"]
    who, blame = "meanwhile", stats.waited_for
    if options.workers:
        known = ((stage, getattr(stats, stage)) for stage in STAGES if stage != "trainer")
        who, blame = "its workers spent", {stage: value for stage, value in known if value}
    blamed = sorted(blame.items(), key=lambda pair: -pair[1])
    total = sum(blame.values())
    if total <= 0:
        return lines
    named = [f"{share:.0%} {_WORDS[stage](stats)}" for stage, value in blamed if (share := value / total) >= _SHOWN]
    lines += [f"         {who} {text}" for text in named[:3]]
    remedy = _REMEDIES.get(blamed[0][0], lambda *_: "")(stats, options)
    return lines + ([f"         {remedy}"] if remedy else [])


# --- what a stage does, in words ------------------------------------------------------------------------------------


def _shards(stats: LoaderStats) -> str:
    if (rate := stats.bytes_per_second) is None:
        return "waiting for shards"
    at_once = f"{stats.requests_at_once or 0:.1f} requests at once"
    return f"waiting for shards (from stores at {show_bytes(rate)}/s over {at_once})"


def _plainly(words: str) -> Callable[[LoaderStats], str]:
    return lambda stats: words


_WORDS: dict[str, Callable[[LoaderStats], str]] = {
    "plan": _plainly("planning steps"),
    "locate": _plainly("looking up addresses"),
    "open": _plainly("mapping and checking shards"),
    "shards": _shards,
    "gather": _plainly("gathering rows"),
    "collate": _plainly("reading and collating samples one by one"),
    "transform": _plainly("in transforms and columns of documents"),
    "copy": _plainly("copying to the device"),
    "weights": _plainly("waiting for losses, on which weights depend"),
    "trainer": _plainly("handing batches over"),
}


# --- what helps -----------------------------------------------------------------------------------------------------


def _late_shards(stats: LoaderStats, options: Options) -> str:
    unpacking, fetching = stats.decompress or 0.0, stats.fetching or 0.0
    if stats.refetched and stats.fetched and stats.refetched > stats.fetched / 10:
        again = f"{stats.refetched:,} of {stats.fetched:,} shards were fetched again"
        if options.cache_limit is not None and stats.evicted:
            return f"{again}, since the cache is too small: raise cache_limit={options.cache_limit}"
        return f"{again}: they were deleted, or damaged, in the cache meanwhile"
    if not stats.fetched:
        return "other processes are fetching these shards: see the lines of `waiting` above, or their stats"
    if unpacking > (stats.fetch or 0.0):
        return (
            f"shards take longer to decompress ({unpacking:.1f} s) than to request ({stats.fetch or 0.0:.1f} s): give "
            "the process more cores, or convert the data without compression"
        )
    if fetching > _BUSY * stats.seconds:
        return (
            "requests were under way nearly all of the time, so fetching earlier does not help: the store or the line "
            "is the limit (compressed shards are fewer bytes)"
        )
    idle = 1 - fetching / stats.seconds
    return (
        f"shards come too late, and no request was under way for {idle:.0%} of the time: raise "
        f"predownload={options.predownload}"
    )


def _slow_opening(stats: LoaderStats, options: Options) -> str:
    if options.hashed is not None:
        return (
            f"every shard is read whole to compare its {options.hashed}: validate_hash='arrival' does that once, when "
            "it arrives"
        )
    return "the disk is slow, or shards are small: fewer, larger shards take less"


def _slow_gathering(stats: LoaderStats, options: Options) -> str:
    work = sum(getattr(stats, name) or 0.0 for name in ("plan", "locate", "open", "gather", "transform", "copy"))
    if stats.cpu is not None and work and stats.cpu < work / 2:
        return (
            f"the thread that makes batches ran for {stats.cpu / work:.0%} of its time: it waits for pages from the "
            f"disk, for a core, or for the GIL, which the trainer's thread holds (then raise prefetch={stats.depth})"
        )
    return "copying bytes is the limit" + (
        ": widen=False makes batches of 2-byte tokens 4 times smaller" * options.widen
    )


def _samples(stats: LoaderStats, options: Options) -> str:
    if options.workers is not None:
        return (
            f"raise num_workers={options.workers} if there are cores; mixstream.Loader gathers columns of fixed size, "
            "many times faster"
        )
    why = options.samples or "rows do not all have one shape"
    return (
        f"{why}: columns of fixed size without that are gathered, many times faster; the workers of a "
        "StreamingDataLoader read them in parallel"
    )


def _late_weights(stats: LoaderStats, options: Options) -> str:
    return f"report losses earlier, or give the dataset a larger lag than {options.lag} (it changes the run)"


_REMEDIES: dict[str, Callable[[LoaderStats, Options], str]] = {
    "shards": _late_shards,
    "open": _slow_opening,
    "gather": _slow_gathering,
    "collate": _samples,
    "weights": _late_weights,
    "plan": lambda stats, options: "the cost is by step and domain: larger batches take less for a row",
    "locate": lambda stats, options: "the cost is by step and domain: larger batches take less for a row",
    "transform": lambda stats, options: f"{1000 * (stats.transform or 0.0) / max(stats.batches, 1):.1f} ms a batch",
    "copy": lambda stats, options: "widen=False copies fewer bytes" if options.widen else "",
}
