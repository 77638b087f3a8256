"""What programs read from, and call on, a stream of mosaicml-streaming: its weights, defaults and shards.

Rule: a dataset shows the weights that it resolved on the caller's streams, as mosaicml-streaming does, and remembers
what they were given. So the same streams serve for another dataset, which mosaicml-streaming refuses.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2s
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from mixstream.data.domain import Domain
from mixstream.errors import ConfigError
from mixstream.formats import ShardEntry
from mixstream.plan.weights import resolve_choose
from mixstream.storage import CacheLimit, DatasetFiles

WEIGHTS = ("proportion", "repeat", "choose")
_DEFAULTS = ("split", "download_retry", "download_timeout", "validate_hash", "keep_zip")


class StreamApi:
    """The part of `Stream` that is there for programs of mosaicml-streaming."""

    remote: str | None
    local: str | None
    split: str
    proportion: float | None
    repeat: float | None
    choose: int | None
    keep_zip: bool | None
    _shown: Mapping[str, tuple[Any, Any]] = MappingProxyType({})
    """By attribute: what was given, and what a dataset shows in its place. Copies share it, so it is never changed."""

    def open(self, *, allow_unsafe_types: bool) -> Domain:
        """Read the stream's index."""
        raise NotImplementedError

    def locate(self) -> DatasetFiles:
        """Return the stream's files; no request is made."""
        raise NotImplementedError

    def show(self, **values: Any) -> None:
        """Show `values` as attributes, until `as_given` is asked or the attribute is set to something else."""
        self._shown = {**self._shown, **{key: (self.given(key), value) for key, value in values.items()}}
        for key, value in values.items():
            setattr(self, key, value)

    def given(self, key: str) -> Any:
        """Return an attribute as the caller gave it."""
        value = getattr(self, key)
        if key not in self._shown or value != self._shown[key][1]:
            return value
        return self._shown[key][0]

    def restore_given(self) -> None:
        """Set every attribute that a dataset has shown a value of back to what was given."""
        for key in self._shown:
            setattr(self, key, self.given(key))
        self._shown = MappingProxyType({})

    @property
    def safe_keep_zip(self) -> bool:
        """Whether compressed shards stay: they are asked for, or they are the originals themselves."""
        return bool(self.keep_zip) or self.given("remote") in {None, self.given("local")}

    def apply_default(self, default: Mapping[str, Any]) -> None:
        """Set attributes that are None (or an empty `split`) to those of `default`, by name.

        Raises:
            ConfigError: the stream has neither `remote` nor `local`.
        """
        if not (self.remote or self.local):
            raise ConfigError("`remote` and/or `local` path must be provided")
        for key in _DEFAULTS:
            if getattr(self, key) in (None, "") and default.get(key) is not None:
                setattr(self, key, default[key])

    @classmethod
    def validate_weights(cls, streams: Sequence[Self]) -> tuple[bool, bool]:
        """Return whether the weights of `streams` are relative, and whether none is given.

        Raises:
            ConfigError: a stream has two weights, or relative and absolute ones are mixed.
        """
        given = [[key for key in WEIGHTS if stream.given(key) is not None] for stream in streams]
        relative = bool(given) and "proportion" in given[0]
        for number, keys in enumerate(given):
            if len(keys) > 1:
                raise ConfigError(
                    "Streams must provide at most one of `proportion`, `repeat`, or `choose` (error in stream "
                    f"{number}, which has {', '.join(keys)}): leave out the others"
                )
            if ("proportion" in keys) != relative:
                raise ConfigError(
                    "Relative (`proportion`) and absolute (`repeat`, `choose`, none) stream weights are incompatible "
                    f"with each other (error in stream {number}): give `proportion` to every stream or to none"
                )
        return relative, not any(given)

    @classmethod
    def apply_weights(
        cls, streams: Sequence[Self], samples_per_stream: Any, choose_per_epoch: int | None, seed: int
    ) -> int:
        """Show on `streams` what an epoch takes from each; return the rows of an epoch.

        Args:
            streams: with their weights as given.
            samples_per_stream: samples of each.
            choose_per_epoch: rows of an epoch, if given; not with `repeat` or `choose`.
            seed: picks the streams that get the rows which rounding leaves over.

        Raises:
            ConfigError: as `validate_weights`, or `choose_per_epoch` comes with absolute weights.
        """
        cls.validate_weights(streams)
        proportion, repeat, choose = ([stream.given(key) for stream in streams] for key in WEIGHTS)
        samples = [int(count) for count in samples_per_stream]
        choose_K = resolve_choose(
            samples=samples,
            proportion=proportion,
            repeat=repeat,
            choose=choose,
            epoch_size=choose_per_epoch or None,
            seed=seed,
        )
        rows = int(choose_K.sum())
        for stream, chosen, size in zip(streams, choose_K.tolist(), samples):
            stream.show(choose=chosen, proportion=chosen / max(rows, 1), repeat=chosen / size if size else 0.0)
        return rows

    def get_shards(self, world: Any = None, allow_unsafe_types: bool = False) -> list[ShardEntry]:
        """Return the shards that the stream's index lists; `world` is accepted, since every rank reads the index.

        Raises:
            UnsafeEncodingError: a column is pickled, and `allow_unsafe_types` is False.
        """
        del world
        return list(self.open(allow_unsafe_types=allow_unsafe_types).shards)

    def get_index_size(self) -> int:
        """Return the bytes of the stream's `index.json`."""
        return len(self.locate().read_index()[0])

    def prepare_shard(self, shard: ShardEntry) -> int:
        """Fetch a shard of `get_shards` to local disk; return by how many bytes its files have grown there."""
        domain = self._cached()
        names, before = [entry.raw.basename for entry in domain.shards], _held(domain.files, shard)
        domain.map(names.index(shard.raw.basename))
        return _held(domain.files, shard) - before

    def set_up_local(self, shards: Sequence[ShardEntry], cache_usage_per_shard: Any) -> None:
        """Write to the array `cache_usage_per_shard`, int64 [S], how many bytes of each shard are on local disk."""
        files = self._cached().files
        for number, shard in enumerate(shards):
            cache_usage_per_shard[number] = _held(files, shard)

    def _cached(self) -> Domain:
        return self.open(allow_unsafe_types=True).within(CacheLimit())


def _held(files: DatasetFiles, shard: ShardEntry) -> int:
    """Return the bytes of a shard's files, raw and compressed, that are in their directory."""
    held = 0
    for part in (shard.raw, shard.zip):
        with suppress(FileNotFoundError):
            held += files.path(part.basename).stat().st_size if part is not None else 0
    return held


def default_local(remote: str, split: str) -> str:
    """Return the directory that mosaicml-streaming takes for the shards of `remote`, as it was written, by default.

    Ours depends on the version of the dataset, which only its index says; `show_places` shows it once that was read.
    """
    return os.path.join(tempfile.gettempdir(), blake2s(remote.encode(), digest_size=16).hexdigest(), split)  # noqa: PTH118 - ends in "/" without a split, as there


def show_places(streams: Sequence[StreamApi], domains: Sequence[Domain]) -> None:
    """Show on `streams` without a `local` the directory where their shards are: the originals', or the cache."""
    for stream, domain in zip(streams, domains):
        if stream.given("local") is None:
            files = domain.files
            stream.show(local=str(files.directory if files.fetches else files.origin or files.directory))


def show_resolved(streams: Sequence[StreamApi], resolved: Sequence[StreamApi]) -> None:
    """Show on the caller's `streams` the weights and places that their dataset resolved.

    Not where buckets took the place of a stream.
    """
    if len(streams) == len(resolved):
        for stream, found in zip(streams, resolved):
            places = {} if stream.given("local") is not None else {"local": found.local}
            stream.show(**places, **{key: getattr(found, key) for key in WEIGHTS})


class Spanner:
    """The shard and the row in it of each sample, by number.

    >>> Spanner(np.array([3, 2]))[3]
    (1, 0)

    Args:
        shard_sizes: int64 [S], samples of each shard.
        span_size: accepted; a search takes its place.
    """

    def __init__(self, shard_sizes: Any, span_size: int = 1 << 10) -> None:
        self.shard_sizes, self.span_size = np.asarray(shard_sizes, dtype=np.int64), span_size
        self.shard_bounds = np.concatenate([[0], np.cumsum(self.shard_sizes)]).astype(np.int64)
        self.num_samples = int(self.shard_bounds[-1])

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Return (shard, row) of sample `index`.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self.num_samples:
            raise IndexError(f"Invalid sample index `{index}`: 0 <= {index} < {self.num_samples}")
        shard = int(np.searchsorted(self.shard_bounds, index, side="right")) - 1
        return shard, int(index - self.shard_bounds[shard])
