"""Where the files of a stream are, and whether they are token files, which have no index of their own.

A stream is of token files if its place is named like one, or an option says how to read them. A directory without
options is an MDS dataset if it has an index, and is looked at for token files only if it has none.
"""

import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from mixstream.data.domain import Domain
from mixstream.data.token_index import TokenIndexMaker
from mixstream.errors import ConfigError, IndexNotFoundError, StoreError, UnfinishedError
from mixstream.formats import Options, TokenStore, is_token_file
from mixstream.formats.columns import is_column_file
from mixstream.records import dataclass
from mixstream.storage import DatasetFiles, Retry, is_local, local_path, redact, split_name

LONGEST_ROW = (1 << 29) - 2
"""Tokens of a row at most: a column has less than 4 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What `DatasetFiles.locate` takes of a stream, and the maker of its index; None if it has one."""

    remote: str | None
    local: str | None
    split: str
    maker: TokenIndexMaker | None = None


def find_place(*, remote: str | None, local: str | None, split: str, options: Options) -> Place:
    """Return where the files of a stream are, from what the user gave; no request is made.

    Raises:
        ConfigError: the options contradict each other, or the place.
    """
    if options.overlap and options.seq_len is None:
        raise ConfigError(
            f"overlap={options.overlap} is about rows of seq_len tokens: give seq_len too, or leave it out"
        )
    if (where := remote if remote is not None else local) is None:
        return Place(remote=None, local=None, split=split)
    directory, name = split_name(where)
    if not names_token_files(where):
        if options == Options():
            return Place(remote=remote, local=local, split=split)
        if is_local(where) and local_path(where).is_file():
            raise ConfigError(
                f"{where!r} is a file that is not named like one of tokens (.idx, .bin, .ds, .npy, .parquet, .arrow): "
                "`mixstream convert` reads texts; give bare tokens the suffix .bin"
            )
        directory, name = where, ""
    if name and split:
        raise ConfigError(
            f"{redact(where)!r} names files, and split={split!r} a directory below: leave out one of the two; a split "
            "that is given to the dataset holds for each of its streams without one"
        )
    maker = TokenIndexMaker(name=name or None, options=options)
    # Files in `local` alone are read where they are: nothing is to be cached there.
    return Place(remote=directory, local=local if remote is not None else None, split=split, maker=maker)


def locate(
    *,
    remote: str | None,
    local: str | None,
    split: str | None = None,
    options: Options = Options(),  # noqa: B008 - frozen
    retry: Retry = Retry(),  # noqa: B008 - frozen
    keep_compressed: bool = False,
    durable: bool = False,
) -> DatasetFiles:
    """Return the files of a dataset, MDS or token files; no request is made. Arguments are those of a stream.

    Raises:
        ConfigError: the options contradict each other, or the place.
    """
    place = find_place(remote=remote, local=local, split=split or "", options=options)
    return DatasetFiles.locate(
        remote=place.remote,
        local=place.local,
        split=place.split,
        retry=retry,
        keep_compressed=keep_compressed,
        maker=place.maker,
        durable=durable,
    )


def names_token_files(where: str) -> bool:
    """Return whether a place is named like a token file, or is what the names of local ones begin with."""
    name = split_name(where)[1]
    return is_token_file(name) or is_column_file(name) or _is_beginning(where)


def open_domain(
    *,
    name: str,
    files: DatasetFiles,
    validate_hash: str | None = None,
    allow_unsafe_types: bool = False,
    otherwise: Options = Options(),  # noqa: B008 - frozen
) -> Domain:
    """Open a domain, as `Domain.open`; a directory without an index may have token files.

    Args:
        name: as of `Domain.open`.
        files: as of `Domain.open`.
        validate_hash: as of `Domain.open`.
        allow_unsafe_types: as of `Domain.open`.
        otherwise: how token files are read of a directory without an index.

    Raises:
        ConfigError: the files were to be read as token files, and are an MDS dataset.
    """
    open_ = partial(Domain.open, name=name, validate_hash=validate_hash, allow_unsafe_types=allow_unsafe_types)
    try:
        domain = open_(files=files)
    except IndexNotFoundError as error:
        if isinstance(error, UnfinishedError) or (other := _as_token_files(files, otherwise, error)) is None:
            raise
        domain = open_(files=other)
    _warn_of_short_files(domain)
    return domain


def _as_token_files(files: DatasetFiles, options: Options, error: IndexNotFoundError) -> DatasetFiles | None:
    """Return the files of a dataset that has no index as token files; None if it has none.

    Raises:
        ConfigError: it was to be read as token files, and is an MDS dataset.
    """
    if files.maker is not None:
        with suppress(IndexNotFoundError, StoreError):
            replace(files, maker=None).read_index()
            raise ConfigError(
                f"{files.describe()} is an MDS dataset, whose rows were made when it was written: leave out seq_len, "
                "overlap, dtype and column"
            ) from error
        return None
    made = replace(files, maker=TokenIndexMaker(name=None, options=options))
    try:
        made.read_index()
    except (IndexNotFoundError, StoreError):
        return None
    return made


def _warn_of_short_files(domain: Domain) -> None:
    """Warn of token files that are shorter than a row: nothing of them is read."""
    container = domain.container
    if not isinstance(container, TokenStore) or (length := container.row_tokens) is None:
        return
    if short := [file.name for file in container.index.files if file.tokens < length]:
        shown = ", ".join(short[:3]) + (", …" if len(short) > 3 else "")
        warnings.warn(
            f"stream {domain.name!r}: {len(short)} of {len(container.index.files)} token files are not read ({shown}): "
            f"they are shorter than a row of {length} tokens; give a smaller seq_len, or join the files",
            stacklevel=2,
        )


def _is_beginning(where: str) -> bool:
    """Return whether a local path is what the names of a pair begin with, and no directory."""
    if not is_local(where) or (path := local_path(where)).is_dir():
        return False
    return any(Path(f"{path}{suffix}").is_file() for suffix in (".idx", ".ds", ".npy"))
