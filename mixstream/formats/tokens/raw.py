"""Bare tokens, `X.bin` and `X.npy`, and numpy's own `.npy` files, whose header says dtype and number.

A file without a header does not say its dtype, which is never guessed. `.npy` is also how dolma and OLMo call bare
tokens; numpy's files are told from those by their first bytes.
"""

import io
import warnings

import numpy as np

from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats.tokens.index import TokenFile
from mixstream.formats.tokens.look import DTYPES, Look, Options, agreed

_NUMPY = b"\x93NUMPY"
_HEAD = 1 << 14  # numpy's headers are shorter, by far
_TAIL = 1 << 12  # bytes at the end of a file that are looked at
_PAIRS = 256  # pairs of tokens from which on halves of wider ones can be told
_HIGH = 16  # the upper half of a token is less: no vocabulary has 2 ** 20


def describe(look: Look, name: str, options: Options) -> TokenFile:
    """Return what is known of a file of bare tokens, or of one that numpy wrote.

    Raises:
        ConfigError: nothing says the dtype, or the header says another one, or has another shape.
        ShardCorruptError: the size of the file is not that of whole tokens.
    """
    info = look.info(name)
    if is_numpy(head := look.read(name, 0, min(_HEAD, info.size))):
        dtype, tokens, begin = _of_numpy(head, name, options)
        if info.size != begin + tokens * np.dtype(dtype).itemsize:
            raise ShardCorruptError(
                f"{name}: {info.size:,} bytes, and by its header {tokens:,} tokens of {dtype} end at "
                f"{begin + tokens * np.dtype(dtype).itemsize:,}: it is truncated or damaged; copy or write it again"
            )
    else:
        if options.dtype is None:
            raise ConfigError(
                f"{name} has no header, so it does not say what its tokens are: give dtype=..., one of "
                f"{', '.join(DTYPES)}; most programs write uint16 for vocabularies up to 65,536, and uint32 or int32 "
                f"above{_pair_of(name)}"
            )
        dtype, begin = options.dtype, 0
        tokens = whole_tokens(name, info.size, dtype)
        _warn_of_zeros(look, name, info.size)
        _warn_of_halves(head, name, np.dtype(dtype))
    return TokenFile(
        name=name, bytes=info.size, version=info.identity, dtype=dtype, begin=begin, tokens=tokens, borders=None
    )


def _pair_of(name: str) -> str:
    """Return what is said of a .bin that may be half of a pair."""
    stem = name.removesuffix(".bin")
    return "" if stem == name else f"; if Megatron wrote it, its {stem}.idx is missing beside it: copy it there"


def is_numpy(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is one of numpy's."""
    return head.startswith(_NUMPY)


def whole_tokens(name: str, size: int, dtype: str) -> int:
    """Return how many tokens of `dtype` a file of `size` bytes has.

    Raises:
        ShardCorruptError: they are not whole.
    """
    tokens, rest = divmod(size, np.dtype(dtype).itemsize)
    if rest:
        raise ShardCorruptError(
            f"{name}: {size:,} bytes are no whole tokens of {dtype}: it is truncated, or its tokens are of another "
            "dtype; copy it again, or give the right dtype"
        )
    return tokens


def _of_numpy(head: bytes, name: str, options: Options) -> tuple[str, int, int]:
    """Return dtype, tokens and the first byte of the tokens of a file of numpy's."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise ShardCorruptError(f"{name}: its numpy header is damaged ({error}); write it again") from error
    if dtype.newbyteorder("<").name not in DTYPES or dtype.newbyteorder("<") != dtype:
        raise ConfigError(f"{name} is an array of {dtype}, tokens are little-endian {', '.join(DTYPES)}; convert it")
    if len(shape) not in (1, 2) or (fortran and len(shape) == 2):
        raise ConfigError(
            f"{name} is an array of shape {list(shape)}{' in Fortran order' * fortran}: tokens are one long row, or "
            "rows of one length in C order; save it as numpy.save(name, array.reshape(-1))"
        )
    if len(shape) == 2 and (options.seq_len, options.overlap) != (shape[1], 0):
        raise ConfigError(
            f"{name} has rows of {shape[1]} tokens: give seq_len={shape[1]} and overlap=0, or save it as one long row, "
            "numpy.save(name, array.reshape(-1))"
        )
    stored = agreed(name, dtype.name, options.dtype, says="its header says")
    return stored, int(np.prod(shape, dtype=np.int64)), stream.tell()


def _warn_of_halves(head: bytes, name: str, dtype: np.dtype) -> None:
    """Warn of tokens that look like halves of wider ones: every second one is 0 or next to it."""
    tokens = np.frombuffer(head, dtype, count=len(head) // dtype.itemsize)
    low, high = tokens[::2], tokens[1::2]
    if high.size >= _PAIRS and 0 <= high.min() <= high.max() < _HIGH and np.unique(low).size > _HIGH:
        warnings.warn(
            f"{name}: every second token of its beginning is at most {high.max()}, as if each token were two of "
            f"{dtype}: if the program that wrote it used {8 * 2 * dtype.itemsize} bits, give "
            f"dtype='uint{8 * 2 * dtype.itemsize}'",
            stacklevel=2,
        )


def _warn_of_zeros(look: Look, name: str, size: int) -> None:
    if size >= _TAIL and not any(look.read(name, size - _TAIL, size)):
        warnings.warn(
            f"{name} ends with {_TAIL} bytes of zeros or more: dolma leaves those where its writer was killed, or "
            "wrote no tokens; they are read as tokens of id 0. Cut the file to its tokens, or write it again",
            stacklevel=2,
        )
