"""Shard bytes: samples to one MDS file and back (`specs/mds.md` section 2).

    u32 n · u32 offset[n + 1], absolute, the last is the file's size · JSON config · samples back to back
    sample = u32 size of each column that varies, then the bytes of each column, columns sorted by name

Rules: bytes in, values out; no file is opened. A shard is untrusted: `read_offsets` checks its whole header,
`decode_sample` checks all sizes of a sample, and every error names the file, the fact and the remedy. Reading ignores
the config inside the file and follows the index; the config is for people and rescue tools.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import EncodingError, MissingColumnError, ShardCorruptError
from mixstream.formats.mds.encodings import CodecError, decode_value, encode_value, require_codec
from mixstream.formats.mds.index import MAX_OFFSET, ShardInfo, smallest_sample

_REMEDY = "the shard cannot be used; delete this copy and fetch it again, or write the dataset again"


def encode_config(config: Mapping[str, Any]) -> bytes:
    """Return `ShardInfo.config()` as the bytes in the shard file."""
    return json.dumps(config, sort_keys=True).encode()


def encode_shard(samples: Sequence[bytes], config: Mapping[str, Any]) -> bytes:
    """Join encoded samples into one shard file.

    Raises:
        EncodingError: the file would be larger than 2**32 - 1 bytes, the limit of its offsets.
    """
    head = encode_config(config)
    offsets = np.zeros(len(samples) + 1, np.int64)
    np.cumsum([len(sample) for sample in samples], out=offsets[1:])
    offsets += 4 + 4 * len(offsets) + len(head)
    if offsets[-1] > MAX_OFFSET:
        raise EncodingError(
            f"{len(samples)} samples make a shard of {offsets[-1]} bytes, offsets reach {MAX_OFFSET}; "
            "give size_limit a smaller number"
        )
    return b"".join((struct.pack("<I", len(samples)), offsets.astype("<u4").tobytes(), head, *samples))


def encode_sample(
    sample: Mapping[str, Any],
    *,
    names: Sequence[str],
    encodings: Sequence[str],
    sizes: Sequence[int | None],
) -> bytes:
    """Encode one sample; `names` are sorted, and the other sequences aligned with them. Further keys are ignored.

    A value that is `bytes` counts as already encoded, under every encoding; only its length is checked.

    Raises:
        MissingColumnError: the sample lacks a column (also a KeyError).
        EncodingError: a column cannot hold its value.
    """
    head, payloads = [], []
    for name, encoding, size in zip(names, encodings, sizes):
        if name not in sample:
            raise MissingColumnError(
                f"the sample lacks column {name!r}; it has {sorted(map(str, sample))}, the dataset has {list(names)}"
            )
        value = sample[name]
        try:
            payload = value if isinstance(value, bytes) else encode_value(require_codec(encoding), value)
        except CodecError as error:
            raise EncodingError(f"column {name!r} of encoding {encoding!r}: {error}") from error
        if size is None:
            head.append(len(payload))
        elif len(payload) != size:
            raise EncodingError(f"column {name!r} of encoding {encoding!r}: {len(payload)} bytes where it takes {size}")
        if len(payload) > MAX_OFFSET:
            raise EncodingError(f"column {name!r}: {len(payload)} bytes, one value has at most {MAX_OFFSET}; split it")
        payloads.append(payload)
    return b"".join((struct.pack(f"<{len(head)}I", *head), *payloads))


def read_offsets(raw: NDArray[np.uint8] | memoryview | bytes, info: ShardInfo, *, where: str) -> NDArray[np.int64]:
    """Read and check a shard's offsets: sample i is `raw[offsets[i] : offsets[i + 1]]`.

    Args:
        raw: the whole uncompressed shard, uint8 [info.raw.bytes].
        info: its entry in the index.
        where: names the file in errors.

    Returns:
        int64 [samples + 1], ascending from the end of the header or later to the size of the shard. Each step is at
        least the size of the columns, and exactly this size if it is fixed for all of them.

    Raises:
        ShardCorruptError: the shard does not match the index.
    """
    size, count = len(raw), info.samples
    if size != info.raw.bytes:
        _refuse(where, f"it has {size} bytes, its index says {info.raw.bytes}")
    header = 4 + 4 * (count + 1)
    if size < header:
        _refuse(where, f"it has {size} bytes, the header of {count} samples alone takes {header}")
    words = np.frombuffer(raw, "<u4", count=count + 2)
    if words[0] != count:
        _refuse(where, f"it holds {words[0]} samples, its index says {count}")
    offsets = words[1:].astype(np.int64)
    if not header <= offsets[0] or offsets[-1] != size:
        _refuse(where, f"its samples span bytes {offsets[0]} to {offsets[-1]}, the file has {header} to {size}")
    least = smallest_sample(info.column_sizes)
    steps = np.diff(offsets)
    wrong = steps != least if None not in info.column_sizes else steps < least
    if wrong.any():
        at = int(np.argmax(wrong))
        _refuse(where, f"sample {at} spans {steps[at]} bytes, its columns take {least}")
    return offsets


def decode_sample(data: bytes | memoryview, info: ShardInfo, *, where: str) -> dict[str, Any]:
    """Decode one sample into its columns, in the order of `info.column_names`.

    The result does not refer to `data`, so a mapped shard may be unmapped. `pkl` columns are unpickled, which runs any
    code in the data: check `is_mds_encoding_safe` for each column before.

    Args:
        data: the sample's bytes.
        info: the shard's entry in the index.
        where: names file and sample in errors.

    Raises:
        ShardCorruptError: the bytes are not a sample of these columns.
    """
    view = memoryview(data)
    varying = info.column_sizes.count(None)
    if len(view) < 4 * varying:
        _refuse(where, f"the sample has {len(view)} bytes, the sizes of its columns alone take {4 * varying}")
    declared = iter(struct.unpack_from(f"<{varying}I", view))
    sizes = [next(declared) if size is None else size for size in info.column_sizes]
    if 4 * varying + sum(sizes) != len(view):
        _refuse(where, f"the sample has {len(view)} bytes, its columns say {4 * varying + sum(sizes)}")
    sample, at = {}, 4 * varying
    for name, encoding, size in zip(info.column_names, info.column_encodings, sizes):
        try:
            sample[name] = decode_value(require_codec(encoding), view[at : at + size])
        except CodecError as error:
            raise ShardCorruptError(f"{where}: column {name!r} of encoding {encoding!r}: {error}; {_REMEDY}") from error
        at += size
    return sample


def _refuse(where: str, fact: str) -> NoReturn:
    raise ShardCorruptError(f"{where}: {fact}; {_REMEDY}")
