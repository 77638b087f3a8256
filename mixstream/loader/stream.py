"""The user's description of a domain: where it is stored, and its weight."""

import copy
from collections.abc import Sequence
from os import PathLike
from typing import Any, get_args

import numpy as np

from mixstream.data.domain import Domain
from mixstream.errors import ConfigError
from mixstream.feedback.replay import Replay
from mixstream.mixers import Binding, Mixer, OpenLoop, Static
from mixstream.plan.weights import apportion, resolve_choose
from mixstream.selection.fit import OnMismatch, Unlisted
from mixstream.storage import DatasetFiles, Retry, join, redact
from mixstream.types import Int64


class Stream:
    """One domain of a `StreamingDataset`.

    Takes the arguments of `streaming.Stream` of mosaicml-streaming; `name`, `max_epochs` and those about selections are
    ours. An argument that is None is taken from the dataset.

    >>> Stream(remote="s3://corpus/web", split="train", proportion=0.7)
    Stream(remote='s3://corpus/web', split='train', proportion=0.7)

    Args:
        remote: where the shards are stored (the directory above `split`): a path, or a URL of s3, gs, az, http(s) or
            any other scheme of fsspec.
        local: directory for raw shards, the cache of `remote`; any number of processes and jobs may share it. If not
            given, a directory below the temporary directory, named after the dataset; local shards are read in place.
        split: sub-directory of both.
        proportion: share of the rows, relative to the other streams'. Give it to all streams or to none.
        repeat: passes over the samples per epoch, instead of 1.
        choose: samples per epoch, instead of all.
        download_retry: attempts per request, at every kind of store; a request to slow down is not counted.
        download_timeout: seconds per request, and seconds to wait for a store that asks to slow down.
        validate_hash: hash that shards are checked against, both downloaded ones and those on disk.
        keep_zip: whether compressed files are kept beside the raw ones.
        name: the domain's name in weights, metrics and errors; the last part of its path if not given.
        max_epochs: passes over the samples after which the domain leaves the mix; None for no limit.
        selection: the samples that count: path or URL of a selection, or of a directory that has one under the stream's
            name. Sizes, epochs and weights are those of the kept samples; shards without any are never fetched.
        split_by: read the stream as several domains, called `NAME/BUCKET`, one for each bucket of its samples:
            "DIRECTORY/COLUMN:COUNT" (parts of equal size by a column of scores), "DIRECTORY/COLUMN" (one bucket per
            integer, as clusters and labels are), or path or URL of buckets that were written. `proportion`, `repeat`
            and `choose` are divided over the buckets by their samples, `max_epochs` holds for each.
        on_selection_mismatch: what happens with a shard that was changed since the selection was made, or removed:
            "error", "drop" (none of its samples counts), "keep_all" (all that it has now; not with several buckets).
        unlisted_shards: what happens with a shard that was added since: "error", "drop", "keep" (all its samples; not
            with several buckets).
    """

    def __init__(
        self,
        *,
        remote: str | None = None,
        local: str | None = None,
        split: str | None = None,
        proportion: float | None = None,
        repeat: float | None = None,
        choose: int | None = None,
        download_retry: int | None = None,
        download_timeout: float | None = None,
        validate_hash: str | None = None,
        keep_zip: bool | None = None,
        name: str | None = None,
        max_epochs: float | None = None,
        selection: str | PathLike[str] | None = None,
        split_by: str | PathLike[str] | None = None,
        on_selection_mismatch: OnMismatch = "error",
        unlisted_shards: Unlisted = "error",
    ) -> None:
        given = {"proportion": proportion, "repeat": repeat, "choose": choose}
        if len(set_ := [key for key, value in given.items() if value is not None]) > 1:
            raise ConfigError(f"a stream takes at most one of `proportion`, `repeat` and `choose`; got {set_}")
        for key, value in given.items():
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"`{key}` must be at least 0, got {value}; give a finite number")
        if choose is not None and choose != int(choose):
            raise ConfigError(f"`choose` is a whole number of samples, got {choose}; use `repeat` for parts")
        if max_epochs is not None and not 0 < max_epochs < float("inf"):
            raise ConfigError(
                f"`max_epochs` must be above 0, got {max_epochs}; leave the stream out to not read it, or give None "
                "for no limit"
            )
        for key, value, choices in (
            ("on_selection_mismatch", on_selection_mismatch, get_args(OnMismatch)),
            ("unlisted_shards", unlisted_shards, get_args(Unlisted)),
        ):
            if value not in choices:
                raise ConfigError(f"{key}={value!r} is not known; choose one of {', '.join(choices)}")
        _check_retry(download_retry, download_timeout)
        self.remote, self.local, self.split = remote, local, split or ""
        self.proportion, self.repeat, self.choose = proportion, repeat, choose
        self.download_retry, self.download_timeout = download_retry, download_timeout
        self.validate_hash, self.keep_zip = validate_hash, keep_zip
        self.name, self.max_epochs = name, max_epochs
        self.selection, self.split_by = selection, split_by
        self.on_selection_mismatch: OnMismatch = on_selection_mismatch
        self.unlisted_shards: Unlisted = unlisted_shards

    def __repr__(self) -> str:
        plain = {"on_selection_mismatch": "error", "unlisted_shards": "error"}
        given = {k: v for k, v in vars(self).items() if v not in (None, "", plain.get(k))}
        shown = {k: redact(v) if isinstance(v, str) else v for k, v in given.items()}
        return f"Stream({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    @property
    def location(self) -> str:
        """Where the domain is, for messages."""
        where = self.remote if self.remote is not None else self.local
        if where is None:
            raise ConfigError("`remote` and/or `local` path must be provided")
        return redact(join(where, self.split))

    @property
    def directory_name(self) -> str:
        """The last part of its path before the split."""
        return self.location.removesuffix(f"/{self.split}").rsplit("/", 1)[-1]

    def open(self, *, allow_unsafe_types: bool) -> Domain:
        """Read the domain's index, without regard to a selection."""
        retry = Retry(attempts=max(self.download_retry or 1, 1), timeout=self.download_timeout or 60.0)
        return Domain.open(
            name=self.name or self.location,
            files=DatasetFiles.locate(
                remote=self.remote, local=self.local, split=self.split, retry=retry, keep_compressed=bool(self.keep_zip)
            ),
            validate_hash=self.validate_hash,
            allow_unsafe_types=allow_unsafe_types,
        )


def _check_retry(download_retry: int | None, download_timeout: float | None) -> None:
    if download_retry is not None and download_retry < 0:
        raise ConfigError(f"`download_retry` must be at least 0, got {download_retry}")
    if download_timeout is not None and download_timeout <= 0:
        raise ConfigError(f"`download_timeout` must be above 0 seconds, got {download_timeout}")


def prepared(streams: Sequence[Stream], defaults: dict[str, Any]) -> list[Stream]:
    """Return copies of `streams` that have names, and values of `defaults` in place of None.

    A stream without a name is named after the last part of its path before the split, or after its whole path if
    several streams have the same last part.
    """
    if isinstance(streams, str) or not all(isinstance(stream, Stream) for stream in streams):
        raise ConfigError(f"`streams` is a list of mixstream.Stream, got {streams!r}; write [Stream(...), ...]")
    _check_retry(defaults.get("download_retry"), defaults.get("download_timeout"))
    copies = [copy.copy(stream) for stream in streams]
    short = [s.name or s.directory_name for s in copies]
    for stream, name in zip(copies, short):
        for key, value in defaults.items():
            if getattr(stream, key) is None:
                setattr(stream, key, value)
        stream.name = stream.name or (name if short.count(name) == 1 else stream.location)
    names = [stream.name for stream in copies]
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ConfigError(f"streams share the names {twice}; give each stream a `name` of its own")
    return copies


def bound(mixer: Any, domains: Sequence[Domain]) -> Any:
    """Return the mixer for these domains; a `mixers.Binding` is resolved by their names and sizes."""
    if isinstance(mixer, type):
        raise ConfigError(f"mixer={mixer.__name__} is a class: give an object of it, mixer={mixer.__name__}(...)")
    if isinstance(mixer, Replay):
        mixer.warn_of_other_rows({d.name: None if d.kept is None else d.kept.id for d in domains})
    if not isinstance(mixer, Binding):
        return mixer
    domains = sorted(domains, key=lambda domain: domain.name)
    samples_K = np.array([domain.samples for domain in domains], dtype=np.int64)
    return mixer.bind(tuple(domain.name for domain in domains), samples_K)


def epoch_counts(
    streams: Sequence[Stream], samples: Sequence[int], mixer: Any, epoch_size: int | None, seed: int
) -> tuple[Int64, bool]:
    """Return the rows that an epoch takes from each stream (for a learning mixer, the prior), int64 [K].

    Also returns whether the streams are weighted. The results are written to the streams, as in mosaicml-streaming.

    Args:
        streams: the domains.
        samples: how many samples each has.
        mixer: of the dataset.
        epoch_size: rows of an epoch, if given.
        seed: decides which streams get the rows that rounding leaves over.
    """
    given = any(value is not None for s in streams for value in (s.proportion, s.repeat, s.choose))
    if mixer is not None and not isinstance(mixer, Mixer | OpenLoop | Static):
        raise ConfigError(
            f"mixer={mixer!r} is no mixer: give an object such as mixstream.mixers.Static({{...}}) or Schedule({{...}})"
            ", or one with init() and update()"
        )
    if given and isinstance(mixer, Static | OpenLoop):
        raise ConfigError("weights are given twice: leave them off the streams, or leave out the mixer")
    if isinstance(mixer, Static):  # exact to the row; a domain of weight 0 gives none
        proportions = mixer.proportion_of(tuple(str(s.name) for s in streams))
        choose_K = apportion(epoch_size or sum(samples), proportions)
    else:
        choose_K = resolve_choose(
            samples=samples,
            proportion=[s.proportion for s in streams],
            repeat=[s.repeat for s in streams],
            choose=[s.choose for s in streams],
            epoch_size=epoch_size,
            seed=seed,
        )
    if not int(choose_K.sum()):
        raise ConfigError(f"an epoch of these streams has no samples at all: {list(streams)}")
    for stream, chosen, size in zip(streams, choose_K.tolist(), samples):
        stream.choose, stream.proportion = chosen, chosen / int(choose_K.sum())
        stream.repeat = chosen / size if size else 0.0
    return choose_K, given or epoch_size is not None
