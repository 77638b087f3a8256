"""datatrove and nanotron: `X.ds` has tokens, `X.ds.index` where documents end, `X.ds.metadata` the width of a token.

    .ds.index: u64 ends, in tokens, one a document · .ds.metadata: "tokenizer|width" and the number of tokens, as lines

Metadata of old versions lacks the width, and is not guessed.
"""

import re
import warnings

import numpy as np

from mixstream.errors import ConfigError, IndexCorruptError, ShardCorruptError
from mixstream.formats.cuts import Cuts
from mixstream.formats.tokens.index import BorderFile, TokenFile
from mixstream.formats.tokens.look import Keep, Look, Options, size_of
from mixstream.formats.tokens.raw import whole_tokens
from mixstream.types import UInt8

_WIDTHS = {2: "uint16", 4: "uint32"}
_LARGEST = 1 << 16  # bytes of metadata that are read
_BLOCK = 1 << 20
_AGAIN = "copy or write the .ds and the files beside it again"


def borders_of(name: str) -> str:
    """Return the name of the index of the .ds called `name`."""
    return f"{name}.index"


def describe(look: Look, name: str, options: Options) -> TokenFile:
    """Return what the files beside a .ds say of it.

    Raises:
        ConfigError: nothing says the dtype, or something else than `options`.
        IndexCorruptError: metadata, index and file do not belong together.
        ShardCorruptError: the file does not have whole tokens.
    """
    info, index = look.info(name), size_of(look, borders_of(name))
    width, count = _metadata(look, name)
    dtype = options.dtype
    if dtype is None and width is None:
        raise ConfigError(
            f"{name}: neither {name}.metadata nor you say how many bytes a token has: give dtype='uint16' or 'uint32', "
            "the one for which the tokenizer's vocabulary is small enough (uint16: at most 65,536)"
        )
    if dtype is not None and width not in (None, np.dtype(dtype).itemsize):
        raise ConfigError(f"{name}: dtype={dtype!r} is given, and by {name}.metadata a token has {width} bytes")
    dtype = dtype or _WIDTHS[width or 0]
    tokens = whole_tokens(name, info.size, dtype)
    if count not in (None, tokens):
        raise ShardCorruptError(
            f"{name} has {tokens:,} tokens of {dtype}, {name}.metadata says {count:,}: one is truncated or of another "
            f"file; {_AGAIN}"
        )
    borders = None
    if index is not None:
        borders = BorderFile(name=borders_of(name), bytes=index.size, version=index.identity)
        if index.size % 8:
            raise IndexCorruptError(f"{borders.name}: {index.size} bytes are no whole numbers of 8 bytes; {_AGAIN}")
        last = int.from_bytes(look.read(borders.name, index.size - 8, index.size), "little") if index.size else 0
        if last != tokens:
            raise IndexCorruptError(_other_end(borders.name, last, tokens))
    if size_of(look, f"{name}.loss") is not None:
        warnings.warn(
            f"{name}.loss says which tokens count for the loss; it is not read, all tokens come without a mask",
            stacklevel=2,
        )
    return TokenFile(
        name=name, bytes=info.size, version=info.identity, dtype=dtype, begin=0, tokens=tokens, borders=borders
    )


def cuts(file: TokenFile, data: UInt8, keep: Keep) -> Cuts:
    """Return where the documents of a .ds end, after a check of the whole index, whose bytes are `data`.

    Raises:
        IndexCorruptError: the ends do not go up, or the last one is not the file's.
    """
    del keep
    assert file.borders is not None
    return checked_ends(data, len(data) // 8, file, where=file.borders.name, whole=True)


def checked_ends(data: UInt8, count: int, file: TokenFile, *, where: str, whole: bool) -> Cuts:
    """Return cuts of u64 ends, in tokens, after a check that they go up and lie within the file.

    Args:
        data: the ends, uint8 [8 * count].
        count: how many there are.
        file: whose documents end there.
        where: the border file, for errors.
        whole: whether the last document has to end where the file does.

    Raises:
        IndexCorruptError: they do not.
    """
    last = 0
    for at in range(0, count, _BLOCK):
        end_N = np.frombuffer(data[8 * at : 8 * min(at + _BLOCK, count)].tobytes(), dtype="<u8")
        if end_N[-1] > file.tokens:
            raise IndexCorruptError(_other_end(where, int(end_N[-1]), file.tokens))
        if end_N[0] < last or (end_N[1:] < end_N[:-1]).any():
            raise IndexCorruptError(f"{where}: its ends of documents do not go up; {_AGAIN}")
        last = int(end_N[-1])
    if whole and last != file.tokens:
        raise IndexCorruptError(_other_end(where, last, file.tokens))
    return Cuts(data=data, at=0, count=count, unit=1, first=1, tokens=file.tokens)


def _other_end(name: str, last: int, tokens: int) -> str:
    return (
        f"{name}: its last document ends at token {last:,}, and the file of tokens has {tokens:,}: one of the two is "
        f"truncated or of another file; {_AGAIN}"
    )


def _metadata(look: Look, name: str) -> tuple[int | None, int | None]:
    """Return the bytes of a token and the number of tokens; None for what the metadata does not say."""
    where = f"{name}.metadata"
    if (info := size_of(look, where)) is None:
        return None, None
    lines = look.read(where, 0, min(info.size, _LARGEST)).decode("utf-8", "replace").split("\n")
    _, bar, size = lines[0].rpartition("|")
    if len(lines) < 2 or not re.fullmatch(r"\d{1,18}", lines[1].strip()) or (bar and size.strip() not in ("2", "4")):
        raise IndexCorruptError(
            f"{where} is not what datatrove writes ('tokenizer|2' or '|4', then the number of tokens): it begins with "
            f"{lines[:2]!r}; {_AGAIN}"
        )
    return int(size) if bar else None, int(lines[1])
