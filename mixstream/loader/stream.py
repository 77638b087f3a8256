"""The user's description of a domain: where it is stored, and its weight."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from mixstream.argument_kinds import checked
from mixstream.arguments import MOST, flag, has_items, real, shown, text, whole
from mixstream.data.domain import Domain
from mixstream.data.token_place import LONGEST_ROW, locate, names_token_files, open_domain
from mixstream.errors import ConfigError
from mixstream.formats import DTYPES, Options, token_stem
from mixstream.lazy import later
from mixstream.loader.mosaic_api.stream import StreamApi, default_local
from mixstream.mixers import Binding
from mixstream.selection.changed_shards import OnMismatch, Unlisted
from mixstream.storage import (
    LONGEST_TIMEOUT,
    DatasetFiles,
    Retry,
    absolute,
    check_utf8,
    domain_name,
    join,
    place_of,
    redact,
)

if TYPE_CHECKING:
    from mixstream.feedback.replay import Replay
else:
    (Replay,) = later("mixstream.feedback.replay", "Replay")


CONCAT = "concat"
"""The packing without a file."""


class Stream(StreamApi):
    """One domain of a `StreamingDataset`.

    Takes the arguments of `streaming.Stream` of mosaicml-streaming; `name`, `max_epochs` and those about selections are
    ours. An argument that is None is taken from the dataset, whose `streams` have the values that hold: `local` is the
    directory where the shards are, and `proportion`, `repeat` and `choose` are what an epoch takes. These three are
    shown on the stream itself too, which may still be given to another dataset.

    >>> Stream(remote="s3://corpus/web", split="train", proportion=0.7)
    Stream(remote='s3://corpus/web', split='train', proportion=0.7)

    Relative paths are below the directory that the process is in when the stream is made; `~` is the home directory.

    Args:
        remote: where the shards are stored (the directory above `split`): a path, or a URL of s3, gs, az, http(s) or
            any other scheme of fsspec.
        local: directory for raw shards, the cache of `remote`, which may also be a path, such as a network mount; any
            number of processes and jobs may share it. If not given, a directory below the temporary directory, named
            after the dataset; local shards are read in place then. A dataset shows on its streams which it is.
        split: sub-directory of both.
        proportion: share of the rows, relative to the other streams'. Give it to all streams or to none.
        repeat: passes over the samples per epoch, instead of 1.
        choose: samples per epoch, instead of all.
        download_retry: attempts per request, at every kind of store; a request to slow down is not counted.
        download_timeout: seconds per request, and seconds to wait for a store that asks to slow down.
        validate_hash: hash that shards are checked against, both downloaded ones and those on disk; or "arrival".
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
        seq_len: read token files (docs/tokens.md) as rows of this many tokens; without it, as their documents. `remote`
            is one of the files (".idx", ".bin", ".ds", ".npy"), or a directory of files of one kind.
        overlap: 1 for rows of `seq_len` + 1 tokens, of which each begins with the last token of the one before; 0 if
            not given.
        dtype: of the tokens of files that do not say it themselves, such as "uint16".
        eos_id: the token that ends a document, where the borders of documents are not stored.
        bos_id: the token that begins a document, likewise; as the end-of-text token of llm.c's files does.
        packing: rows of one length, made of the documents: path or URL of what `mixstream pack` wrote, or of a
            directory that has it under the stream's name; or "concat", for the tokens one after the other, cut every
            `seq_len`, which needs no file (docs/documents.md). Sizes, epochs and weights are those of the packed rows.
        column: of Parquet and Arrow files, the column of token ids; "input_ids", else "tokens", if not given.
        durable: whether shards in the cache survive a power cut.
    """

    @checked
    def __init__(
        self,
        *,
        remote: str | PathLike[str] | None = None,
        local: str | PathLike[str] | None = None,
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
        seq_len: int | None = None,
        overlap: int | None = None,
        dtype: str | np.dtype[Any] | type[np.generic] | None = None,
        eos_id: int | None = None,
        bos_id: int | None = None,
        packing: str | PathLike[str] | None = None,
        column: str | None = None,
        durable: bool | None = None,
    ) -> None:
        given = {"proportion": proportion, "repeat": repeat, "choose": choose}
        if len(set_ := [key for key, value in given.items() if value is not None]) > 1:
            raise ConfigError(f"At most one of `proportion`, `repeat`, `choose` may be given to a stream; got {set_}")
        for key, value, choices in (
            ("on_selection_mismatch", on_selection_mismatch, get_args(OnMismatch)),
            ("unlisted_shards", unlisted_shards, get_args(Unlisted)),
        ):
            if value not in choices:
                raise ConfigError(f"{key}={value!r} is not known; choose one of {', '.join(choices)}")
        self._given = next((str(place) for place in (remote, local) if place is not None), None)
        self.remote, self.local = cast("str | None", remote), cast("str | None", local)  # once they are normalised
        self.split = split or ""
        self.proportion, self.repeat, self.choose = proportion, repeat, choose
        self.download_retry, self.download_timeout = download_retry, download_timeout
        self.validate_hash, self.keep_zip, self.durable = validate_hash, keep_zip, durable
        self.name, self.max_epochs = name, max_epochs
        self.selection, self.split_by = selection, split_by
        if split_by is not None and ("/" in fspath(split_by) or Path(split_by).exists()):  # else it names no directory
            self.split_by = absolute(split_by, "split_by")
        self.on_selection_mismatch: OnMismatch = on_selection_mismatch
        self.unlisted_shards: Unlisted = unlisted_shards
        self.seq_len, self.overlap, self.column = seq_len, overlap, column
        self.dtype = cast("str | None", dtype)  # as these are
        self.eos_id, self.bos_id, self.packing = eos_id, bos_id, packing
        _normalise(self)
        if remote is not None and local is None:
            self.show(local=default_local(str(remote), self.split))

    def __repr__(self) -> str:
        plain = {"on_selection_mismatch": "error", "unlisted_shards": "error"}
        public = {k: self.given(k) if k == "local" else v for k, v in vars(self).items() if k[0] != "_"}
        given = {k: v for k, v in public.items() if v not in (None, "", plain.get(k))}
        shown = {k: repr(redact(v)) if isinstance(v, str) else redact(repr(v)) for k, v in given.items()}
        return f"Stream({', '.join(f'{k}={v}' for k, v in shown.items())})"

    @property
    def location(self) -> str:
        """Where the domain is, for messages."""
        where = self.remote if self.remote is not None else self.given("local")
        if where is None:
            raise ConfigError("`remote` and/or `local` path must be provided")
        return redact(join(where, self.split))

    @property
    def directory_name(self) -> str:
        """The last part of its path before the split; of token files, without what their format adds."""
        return token_stem(self._label.removesuffix(f"/{self.split}").rsplit("/", 1)[-1])

    @property
    def _label(self) -> str:
        """Where the domain is, as the user wrote it; names are made of it, and the rows' order depends on names."""
        return self.location if self._given is None else place_of(join(self._given, self.split))

    def open(self, *, allow_unsafe_types: bool) -> Domain:
        """Read the domain's index, without regard to a selection."""
        found = open_domain(
            name=self.name or self._label,
            files=self.locate(),
            validate_hash=self.validate_hash,
            allow_unsafe_types=allow_unsafe_types,
            otherwise=self._options(joined=True),
        )
        return replace(found, eos_id=self.eos_id, bos_id=self.bos_id)

    def _options(self, *, joined: bool) -> Options:
        """Return how token files are read; `joined` says whether packing="concat" reads them as rows."""
        seq_len, overlap = self.seq_len, self.overlap or 0
        if self.packing is not None and not (joined and (self.packing == CONCAT or self.eos_id is not None)):
            seq_len, overlap = None, 0  # rows are packed of documents
        return Options(seq_len=seq_len, overlap=overlap, dtype=self.dtype, column=self.column)

    def locate(self) -> DatasetFiles:
        """Return the stream's files; no request is made."""
        where = self.remote if self.remote is not None else self.given("local")
        joined = self.dtype is not None or self.column is not None  # MDS has neither
        joined = joined or (self.packing is not None and where is not None and names_token_files(where))
        return locate(
            remote=self.remote,
            local=self.given("local"),
            split=self.split,
            options=self._options(joined=joined),
            retry=retry_of(self),
            keep_compressed=bool(self.keep_zip),
            durable=bool(self.durable),
        )


def retry_of(stream: Stream) -> Retry:
    """Return how requests are retried for a stream, its selection, scores and packing included."""
    return Retry(attempts=max(stream.download_retry or 1, 1), timeout=stream.download_timeout or 60.0)


def _as_given(name: str, value: Any) -> Any:
    del name
    return str(value) if isinstance(value, str) else value


def _place(name: str, value: Any) -> str:
    return absolute(value, name)


def _dtype(name: str, value: Any) -> str:
    known = isinstance(value, str | np.dtype | type)
    found = str(getattr(value, "__name__", value)) if known else ""  # numpy's types have it
    if found not in DTYPES:
        raise ConfigError(f"{name}={shown(value)} is no dtype of tokens; choose one of {', '.join(DTYPES)}")
    return found


_CONVERT: dict[str, Callable[[str, Any], Any]] = {
    "proportion": partial(real, least=0),
    "repeat": partial(real, least=0),
    "choose": partial(whole, least=0, most=MOST, of="samples", advice="use `repeat` for parts"),
    "max_epochs": partial(real, above=0, advice="leave the stream out to not read it, or give None for no limit"),
    "download_retry": partial(whole, least=0, most=MOST, of="attempts"),
    "download_timeout": partial(real, above=0, of="seconds", advice=f"give at most {LONGEST_TIMEOUT}"),
    **dict.fromkeys(("keep_zip", "durable"), flag),
    "name": lambda name, value: check_utf8(text(name, value), name),
    "remote": lambda name, value: check_utf8(absolute(value, name), name),
    "local": _place,
    "selection": _place,
    "packing": lambda name, value: value if value == CONCAT else absolute(value, name),
    "split": _as_given,
    "seq_len": partial(whole, least=1, most=LONGEST_ROW, of="tokens"),
    "overlap": partial(whole, least=0, most=1, of="tokens"),
    "dtype": _dtype,
    **dict.fromkeys(("eos_id", "bos_id"), partial(whole, least=0, most=MOST)),
    "column": text,
}


def _normalise(stream: Stream) -> None:
    """Turn a stream's numbers, switches and texts into Python's own; called again for attributes that were set since.

    Raises:
        ConfigError: an attribute is none of its kind, or out of its range.
    """
    for name, convert in _CONVERT.items():
        if (value := getattr(stream, name)) is not None:
            setattr(stream, name, convert(name, value))


def listed(streams: Any) -> list[Stream]:
    """Return streams as a list; raise ConfigError if they are anything else."""
    if not has_items(streams) or not all(isinstance(stream, Stream) for stream in streams):
        raise ConfigError(f"`streams` is a list of mixstream.Stream, got {shown(streams)}; write [Stream(...), ...]")
    return list(streams)


def prepared(streams: Sequence[Stream], defaults: dict[str, Any]) -> list[Stream]:
    """Return copies of `streams` that have names, and values of `defaults` in place of None.

    A stream without a name is named after the last part of its path before the split, or after its whole path if
    several streams have the same last part. A directory that `mixstream convert` named `C~23` is of the domain `C#`.
    """
    defaults = {
        key: value if value is None else _CONVERT.get(key, _as_given)(key, value) for key, value in defaults.items()
    }
    copies = [copy.copy(stream) for stream in listed(streams)]
    for stream in copies:
        stream.restore_given()
        _normalise(stream)
    Stream.validate_weights(copies)
    short = [s.name or domain_name(s.directory_name) for s in copies]
    times = Counter(short)
    for stream, name in zip(copies, short):
        for key, value in defaults.items():
            if getattr(stream, key) is None:
                setattr(stream, key, value)
        stream.name = stream.name or (name if times[name] == 1 else stream._label)
    names = [stream.name for stream in copies]
    if twice := sorted(str(name) for name, found in Counter(names).items() if found > 1):
        raise ConfigError(f"streams share the names {twice}; give each stream a `name` of its own")
    return copies


def bound(mixer: Any, domains: Sequence[Domain]) -> Any:
    """Return the mixer for these domains; a `mixers.Binding` is resolved by their names and sizes."""
    if isinstance(mixer, type):
        raise ConfigError(f"mixer={mixer.__name__} is a class: give an object of it, mixer={mixer.__name__}(...)")
    if mixer is None:
        return None
    from mixstream.mixers import LMO  # a mixer of its own; it and numpy.ma take 10 ms

    if isinstance(mixer, LMO):
        raise ConfigError(
            "mixer=LMO(...) is no mixer: it is the step that mixers take with a matrix, and nothing gives it one; give "
            "mixer=MatrixMixer(lmo=LMO(...)) and pass matrix= to report(), or Aioli(), which measures a matrix"
        )
    if isinstance(mixer, Replay):
        mixer.warn_of_other_rows({d.name: d.view_id for d in domains})
    if not isinstance(mixer, Binding):
        return mixer
    domains = sorted(domains, key=lambda domain: domain.name)
    samples_K = np.array([domain.samples for domain in domains], dtype=np.int64)
    return mixer.bind(tuple(domain.name for domain in domains), samples_K)
