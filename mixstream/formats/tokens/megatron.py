"""Megatron: `X.bin` has the tokens, `X.idx` their dtype and where sequences and documents begin.

    .idx: "MMIDIDX\\0\\0" · u64 version 1 · u8 dtype code · u64 n sequences · u64 m · i32 lengths[n], in tokens
          · i64 pointers[n], in bytes of the .bin · i64 document_indices[m], 0 to n · i8 modes[n], if multimodal

Nothing is aligned. A document is one sequence or several (`--split-sentences`): document d has the sequences
document_indices[d] to document_indices[d + 1]. Rows need the .bin alone, so the document_indices are checked only where
documents matter; that the .bin ends where the last sequence does is checked always.
"""

import struct
from collections.abc import Iterator

import numpy as np

from mixstream.errors import IndexCorruptError, ShardCorruptError
from mixstream.formats.cuts import Cuts
from mixstream.formats.tokens.index import BorderFile, TokenFile
from mixstream.formats.tokens.look import Keep, Look, Options, agreed, size_of
from mixstream.types import Int64, UInt8

MAGIC = b"MMIDIDX\x00\x00"
_OLD = b"TNTIDX\x00\x00"
_HEADER = 34
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
_FLOATS = {6: "float64", 7: "float32"}
_BLOCK = 1 << 20  # entries that are checked at once
_AGAIN = "write or copy the pair again; neither file was used"


def borders_of(name: str) -> str:
    """Return the name of the .idx of the .bin called `name`."""
    return name.removesuffix(".bin") + ".idx"


def describe(look: Look, name: str, options: Options) -> TokenFile:
    """Return what the .idx of the .bin `name` says of it, from its header and its last entries.

    Raises:
        IndexCorruptError: the .idx is none of this format, or is truncated.
        ShardCorruptError: the .bin is missing, or has another size than the .idx says.
        ConfigError: `options.dtype` is another one.
    """
    idx = borders_of(name)
    index, tokens = look.info(idx), size_of(look, name)
    if tokens is None:
        raise ShardCorruptError(f"{idx}: there is no {name} beside it, which has its tokens; {_AGAIN}")
    dtype, n, _ = _header(look.read(idx, 0, min(_HEADER, index.size)), index.size, idx)
    itemsize, end = np.dtype(dtype).itemsize, 0
    if n:
        (length,) = struct.unpack("<i", look.read(idx, _HEADER + 4 * (n - 1), _HEADER + 4 * n))
        (pointer,) = struct.unpack("<q", look.read(idx, _HEADER + 12 * n - 8, _HEADER + 12 * n))
        if pointer < 0 or length < 0:
            raise IndexCorruptError(_negative(idx, n - 1, pointer, length))
        end = pointer + length * itemsize
    if tokens.size != end:
        state = "is truncated" if tokens.size < end else "is longer than its index says"
        raise ShardCorruptError(
            f"{name} {state}: {tokens.size:,} bytes, and by {idx} its {n:,} sequences of {dtype} end at {end:,}; "
            f"{_AGAIN}"
        )
    return TokenFile(
        name=name,
        bytes=tokens.size,
        version=tokens.identity,
        dtype=agreed(idx, dtype, options.dtype, says="its header says"),
        begin=0,
        tokens=end // itemsize,
        borders=BorderFile(name=idx, bytes=index.size, version=index.identity),
    )


def cuts(file: TokenFile, data: UInt8, keep: Keep) -> Cuts:
    """Return where the documents of a .bin begin, after a check of the whole .idx, whose bytes are `data`.

    Raises:
        IndexCorruptError: it is inconsistent.
    """
    assert file.borders is not None
    idx = file.borders.name
    dtype, n, m = _header(data[:_HEADER].tobytes(), len(data), idx)
    itemsize = np.dtype(dtype).itemsize
    _check_sequences(data, n, itemsize, idx, file)
    if _check_documents(data, n, m, idx):
        return Cuts(data=data, at=_HEADER + 4 * n, count=n, unit=itemsize, first=0, tokens=file.tokens)
    kept = keep(_document_begins(data, n, m, itemsize, file.tokens))
    return Cuts(data=kept, at=0, count=m - 1, unit=1, first=0, tokens=file.tokens)


def sequence_starts(file: TokenFile, data: UInt8) -> Int64:
    """Return the token at which each sequence of a .bin begins, and where the last one ends, int64 [n + 1].

    A document is one sequence or several; the .idx, whose bytes are `data`, is checked apart from its document_indices.

    Raises:
        IndexCorruptError: it is inconsistent.
    """
    assert file.borders is not None
    dtype, n, _ = _header(data[:_HEADER].tobytes(), len(data), file.borders.name)
    itemsize = np.dtype(dtype).itemsize
    _check_sequences(data, n, itemsize, file.borders.name, file)
    start_S1 = np.full(n + 1, file.tokens, dtype=np.int64)
    np.floor_divide(_read(data, _HEADER + 4 * n, n, "<i8"), itemsize, out=start_S1[:n])
    return start_S1


def _header(head: bytes, size: int, idx: str) -> tuple[str, int, int]:
    """Return dtype, sequences and entries of document_indices, after a check of the header and of the size."""
    if head.startswith(_OLD):
        raise IndexCorruptError(
            f"{idx} is of the older format TNTIDX of fairseq and early Megatron, which is not read: convert it with "
            "the --dataset-impl mmap of the program that wrote it"
        )
    if not head.startswith(MAGIC):
        raise IndexCorruptError(f"{idx} is no Megatron index: it begins with {head[:9]!r} instead of {MAGIC!r}")
    if len(head) < _HEADER:
        raise IndexCorruptError(f"{idx} is truncated: {size} bytes, its header has {_HEADER}; {_AGAIN}")
    version, code, n, m = struct.unpack("<QBQQ", head[9:])
    if version != 1:
        raise IndexCorruptError(f"{idx} has version {version}; version 1 is read, convert it")
    if code in _FLOATS:
        raise IndexCorruptError(
            f"{idx}: its dtype code {code} is {_FLOATS[code]}, which are no tokens; give its tokens"
        )
    if code not in _DTYPES:
        raise IndexCorruptError(f"{idx}: its dtype code {code} is not known; codes are {sorted(_DTYPES)}")
    least = _HEADER + 12 * n + 8 * m
    if n and size == least + n:
        raise IndexCorruptError(
            f"{idx} is multimodal (it has a mode for each of its {n:,} sequences), so its .bin has more than text "
            "tokens; write it without modes"
        )
    if size != least:
        raise IndexCorruptError(
            f"{idx} is {'truncated' if size < least else 'damaged'}: {size:,} bytes, and {n:,} sequences with {m:,} "
            f"document indices take {least:,}; {_AGAIN}"
        )
    return _DTYPES[code], n, m


def _check_sequences(data: UInt8, n: int, itemsize: int, idx: str, file: TokenFile) -> None:
    """Check that each sequence begins where the one before it ends, and the last one ends where the .bin does."""
    end = 0
    for at in range(0, n, _BLOCK):
        to = min(at + _BLOCK, n)
        length_N = _read(data, _HEADER + 4 * at, to - at, "<i4").astype(np.int64) * itemsize
        pointer_N = _read(data, _HEADER + 4 * n + 8 * at, to - at, "<i8")
        ends_N = end + np.cumsum(length_N)
        wrong_N = (length_N < 0) | (pointer_N != ends_N - length_N)
        if wrong_N.any():
            i = int(np.argmax(wrong_N))
            number, pointer, length = at + i, int(pointer_N[i]), int(length_N[i]) // itemsize
            if pointer < 0 or length < 0:
                raise IndexCorruptError(_negative(idx, number, pointer, length))
            raise IndexCorruptError(
                f"{idx}: sequence {number} is said to begin at byte {pointer:,} of {file.name}, and those before it "
                f"end at {int((ends_N - length_N)[i]):,}: documents cannot be told; {_AGAIN}"
            )
        end = int(ends_N[-1])
    if end != file.bytes:
        raise IndexCorruptError(f"{idx}: its sequences have {end:,} bytes, {file.name} has {file.bytes:,}; {_AGAIN}")


def _negative(idx: str, number: int, pointer: int, length: int) -> str:
    return (
        f"{idx}: sequence {number} has {length} tokens at byte {pointer}: its numbers overflowed in the program that "
        "merged the files (32 bits); merge them again with a newer one, or write the pair again"
    )


def _check_documents(data: UInt8, n: int, m: int, idx: str) -> bool:
    """Check the document indices; return whether each document is one sequence.

    Raises:
        IndexCorruptError: they do not go up from 0 to the number of sequences.
    """
    begin, simple, last = _HEADER + 12 * n, m == n + 1, -1
    for at in range(0, m, _BLOCK):
        to = min(at + _BLOCK, m)
        index_M = _read(data, begin + 8 * at, to - at, "<i8")
        if (at == 0 and index_M[0] != 0) or index_M[0] < last or (np.diff(index_M) < 0).any():
            raise IndexCorruptError(_bad_documents(idx, "do not go up from 0", n))
        simple = simple and bool((index_M == np.arange(at, to)).all())
        last = int(index_M[-1])
    if last != n:
        told = f"{m:,} of them end at {last} instead of {n}" if m else "there are none"
        raise IndexCorruptError(_bad_documents(idx, told, n))
    return simple


def _bad_documents(idx: str, fact: str, n: int) -> str:
    return (
        f"{idx}: its document_indices are wrong ({fact}; the file has {n:,} sequences), as some programs write them "
        "that merge files: where documents begin is not known. Write the index again; rows (seq_len=...) can be read "
        "without it, and eos_id=... finds the borders in them"
    )


def _document_begins(data: UInt8, n: int, m: int, itemsize: int, tokens: int) -> Iterator[Int64]:
    """Yield the tokens at which documents of several sequences begin, in blocks."""
    step = _BLOCK >> 4
    for at in range(0, m - 1, step):
        index_M = _read(data, _HEADER + 12 * n + 8 * at, min(step, m - 1 - at), "<i8")
        first, last = int(index_M[0]), min(int(index_M[-1]) + 1, n)
        pointer_N = np.append(_read(data, _HEADER + 4 * n + 8 * first, last - first, "<i8") // itemsize, tokens)
        yield pointer_N[index_M - first]


def _read(data: UInt8, begin: int, count: int, dtype: str) -> np.ndarray:
    """Return integers that are not aligned, as a copy."""
    return np.frombuffer(data[begin : begin + count * np.dtype(dtype).itemsize].tobytes(), dtype=dtype)
