"""Kinds of options that commands share: one name, one meaning and one help text for each, wherever it appears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.formats import DTYPES, Options
from mixstream.selection import DomainRows
from mixstream.storage import Retry, local_path
from mixstream.units import parse_bytes

from .domains import NamedDataset, find_domains
from .numbers import Count, MaybePositive, Overlap, Seconds

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
Text = Annotated[str | None, Parameter(show_default=False)]
Many = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True, show_default=False)]

Control = Literal["random", "inverse"]
Controls = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True, show_default=False)]


def controls_of(texts: Sequence[str]) -> tuple[Control, ...]:
    """Return the controls that `--control` names, each once; several are joined by commas or follow each other.

    >>> controls_of(["random,inverse", "random"])
    ('random', 'inverse')

    Raises:
        ConfigError: there is no such control.
    """
    known: tuple[Control, ...] = get_args(Control)
    names = [name.strip() for text in texts for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--control {unknown[0]}: give {' or '.join(known)}, or both as {','.join(known)}")
    return tuple(control for control in known if control in names)


def token_options(seq_len: int | None, overlap: int, dtype: str | None, column: str | None = None) -> Options:
    """Return how token files are read, by the options of a command.

    Raises:
        ConfigError: one is out of its range.
    """
    if (seq_len is not None and seq_len < 1) or overlap not in (0, 1) or (overlap and seq_len is None):
        raise ConfigError(f"--seq-len {seq_len} --overlap {overlap}: give 1 or more tokens, and an overlap of 0 or 1")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: give one of {', '.join(DTYPES)}")
    return Options(seq_len=seq_len, overlap=overlap, dtype=dtype, column=column)


def device_of(name: str) -> str:
    """Return where to compute, as torch names it: for `auto`, a GPU if there is one."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class TokenReading:
    """How a command reads token files of which it needs the shards alone. Its fields are options.

    Args:
        seq_len: read token files as rows of this many tokens, as in training; default: as documents.
        overlap: 1 if each row begins with the last token of the one before.
        dtype: of the tokens of files that do not say it, such as uint16.
    """

    seq_len: MaybePositive = None
    overlap: Overlap = 0
    dtype: Text = None

    @property
    def options(self) -> Options:
        """How token files are read."""
        return token_options(self.seq_len, self.overlap, self.dtype)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a command reads shards. As a parameter of a command, its fields are options.

    Args:
        split: which of the splits of a domain, where it has several.
        local: cache directory of remote shards, for each domain LOCAL/DOMAIN; default: below the temp directory.
        cache_limit: how much it may hold for each domain, as in 20gb; default: no limit.
        download_retry: attempts of each request.
        download_timeout: timeout of a request in seconds.
        seq_len: read token files as rows of this many tokens, as in training; default: as documents.
        overlap: 1 if each row begins with the last token of the one before.
        dtype: of the tokens of files that do not say it, such as uint16.
        token_column: of Parquet and Arrow files, the column of token ids; default: input_ids, else tokens.
    """

    split: str = "train"
    local: Text = None
    cache_limit: Text = None
    download_retry: Count = 2
    download_timeout: Seconds = 60.0
    seq_len: MaybePositive = None
    overlap: Overlap = 0
    dtype: Text = None
    token_column: Text = None

    @property
    def options(self) -> Options:
        """How token files are read."""
        return token_options(self.seq_len, self.overlap, self.dtype, self.token_column)

    @property
    def limit(self) -> int | None:
        """Bytes that the cache of a domain may hold; None for no limit."""
        return None if self.cache_limit is None else parse_bytes(self.cache_limit)

    @property
    def retry(self) -> Retry:
        """Attempts and timeout of requests."""
        return Retry(attempts=self.download_retry, timeout=self.download_timeout)

    def find(self, urls: Sequence[str]) -> list[NamedDataset]:
        """Return the domains at some URLs. See `find_domains`."""
        return find_domains(urls, split=self.split, retry=self.retry, options=self.options)

    def open(self, url: str, *, name: str) -> DomainRows:
        """Open the shards of the domain `name`; a cache directory is bound to one dataset, so each has its own."""
        local = None if self.local is None else str(local_path(self.local).absolute() / name)
        return DomainRows.open(
            url,
            name=name,
            local=local,
            cache_limit=self.limit,
            retry=self.retry,
            options=self.options,
        )

    def for_workers(self) -> Reading:
        """Return the same for a worker, which may have another current directory."""
        return self if self.local is None else replace(self, local=str(local_path(self.local).absolute()))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentReading(Reading):
    """How shards are read whose documents are packed; token files as documents, unless a token ends each of them."""

    seq_len: Annotated[int | None, Parameter(parse=False)] = None
    overlap: Annotated[int, Parameter(parse=False)] = 0
