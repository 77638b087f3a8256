"""The samples of one `.bin` in Megatron's order, built once a machine and mapped by each of its processes.

Rules. The file lies below the temporary directory, under a name made of everything that decides its content: the
place and versions of `.bin` and `.idx`, and the options of the order. It appears whole or not at all, so a killed
process leaves nothing that is trusted. Building takes O(samples) memory and time, reading a few pages of the file.

Shape suffixes: D, N and S as in `sequence_rows`.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.data.sequence_rows import SequenceRows
from mixstream.formats import TokenIndex, hash_hex, sequence_starts
from mixstream.plan.megatron import SampleIndex, build_sample_index, split_sequences
from mixstream.records import dataclass
from mixstream.storage import DatasetFiles, build_once, map_file, write_whole
from mixstream.types import Int64, UInt8

_MAGIC = b"mixmega1"
_HEAD = np.dtype(
    [("magic", "S8"), ("sequences", "<i8"), ("places", "<i8"), ("samples", "<i8"), ("wide_begin", "<i4"),
     ("wide_shuffle", "<i4"), ("hash", "S32")]
)  # fmt: skip
_ALIGN = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleFile:
    """The samples of a run over one pair of files. Picklable, without its mapping.

    Args:
        files: where they are.
        index: of the store, which has one file, and the row length.
        split: which sequences count: weights of train, valid and test; None for all.
        part: "train", "valid" or "test".
        num_samples: that the run needs at least; None for one epoch.
        seed: of the order.

    Raises (the first use):
        ConfigError: there is no sample.
        IndexCorruptError, StoreError: the `.idx` is inconsistent, or cannot be read.
        CacheFullError, StoreAccessError: the temporary directory has no room, or may not be written.
    """

    files: DatasetFiles
    index: TokenIndex
    split: str | None
    part: str
    num_samples: int | None
    seed: int

    def __call__(self, shard: int) -> SequenceRows:
        """Return the rows of the only shard: `Packed.rows_of`."""
        del shard
        return self.rows

    @property
    def rows(self) -> SequenceRows:
        """The rows; their arrays are mapped."""
        return self._mapped[0]

    @cached_property
    def id(self) -> str:
        """Identifies the order: its options, and where the sequences begin. The same wherever the files are."""
        facts = (self._options, self._mapped[1])
        return f"megatron {blake2b(repr(facts).encode(), digest_size=16).hexdigest()}"

    @property
    def _options(self) -> tuple[Any, ...]:
        index = self.index
        return (_MAGIC, index.seq_len, index.overlap, self.split, self.part, self.num_samples, self.seed)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_mapped"}

    @cached_property
    def _mapped(self) -> tuple[SequenceRows, str]:
        """The rows, and the hash of where sequences begin."""
        where = self.files.describe()
        facts = (self._options, self.index, self.files.original)  # not every store tells versions of files apart
        data = build_once(
            f"megatron:{blake2b(repr(facts).encode(), digest_size=16).hexdigest()}",
            "samples",
            find=_whole,
            build=lambda path: _write(path, *self._built()),
            what=f"Megatron's order of {where}",
            need=f"put {where} into Megatron's order",
        )
        return _rows(data, self.index.overlap)

    def _built(self) -> tuple[Int64, SampleIndex]:
        """Return where sequences begin, int64 [S + 1], and the samples of them."""
        file, seq_len = self.index.files[0], self.index.seq_len
        assert file.borders is not None
        assert seq_len is not None
        start_S1 = sequence_starts(file, self.files.companion(file.borders.name, file.borders.bytes))
        index = build_sample_index(
            np.diff(start_S1).astype(np.int32),
            split_sequences(self.split, self.part, len(start_S1) - 1),
            num_samples=self.num_samples,
            seq_len=seq_len,
            extra=self.index.overlap,
            seed=self.seed,
        )
        return start_S1, index


def _layout(head: Any) -> tuple[dict[str, tuple[int, str, tuple[int, ...]]], int]:
    """Return where each array lies, as (first byte, dtype, shape), and the bytes of the whole file."""
    samples = int(head["samples"])
    arrays = {
        "start_S1": ("<i8", (int(head["sequences"]) + 1,)),
        "begin_N2": ("<i8" if head["wide_begin"] else "<i4", (samples + 1, 2)),
        "shuffle_N": ("<i8" if head["wide_shuffle"] else "<u4", (samples,)),
        "sequence_D": ("<i4", (int(head["places"]),)),
    }
    found, at = {}, _ALIGN * -(-_HEAD.itemsize // _ALIGN)
    for name, (dtype, shape) in arrays.items():
        found[name] = (at, dtype, shape)
        at += _ALIGN * -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // _ALIGN)
    return found, at


def _write(path: Path, start_S1: Int64, index: SampleIndex) -> None:
    head = np.zeros(1, _HEAD)
    head["magic"], head["sequences"], head["samples"] = _MAGIC, len(start_S1) - 1, index.samples
    head["places"], head["hash"] = len(index.sequence_D), hash_hex("xxh3_128", start_S1.data.cast("B")).encode()
    head["wide_begin"] = index.begin_N2.dtype == np.int64
    head["wide_shuffle"] = index.shuffle_N.dtype == np.int64
    layout, size = _layout(head[0])
    with write_whole(path) as file:
        file.truncate(size)
        for name, (begin, _, _) in layout.items():
            array: NDArray[Any] = start_S1 if name == "start_S1" else getattr(index, name)
            file.seek(begin)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.seek(0)
        file.write(head.tobytes())


def _whole(path: Path) -> UInt8 | None:
    """Return the mapped file; None if there is none, or it is none of this version."""
    try:
        data = map_file(path)
    except OSError:
        return None
    if len(data) < _HEAD.itemsize:
        return None
    head = data[: _HEAD.itemsize].view(_HEAD)[0]
    return data if head["magic"] == _MAGIC and _layout(head)[1] == len(data) else None


def _rows(data: UInt8, extra: int) -> tuple[SequenceRows, str]:
    head = data[: _HEAD.itemsize].view(_HEAD)[0]
    arrays = {}
    for name, (begin, dtype, shape) in _layout(head)[0].items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[name] = data[begin : begin + size].view(dtype).reshape(shape)
    start_S1 = arrays.pop("start_S1")
    return SequenceRows(index=SampleIndex(**arrays), start_S1=start_S1, extra=extra), head["hash"].decode()
