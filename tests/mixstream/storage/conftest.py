"""Datasets for the tests of storage, on disk and on the S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import write_tokens  # pyright: ignore[reportMissingImports] - conftest.py above sets the path
from servers import S3  # pyright: ignore[reportMissingImports]

from mixstream.formats import decompress, parse_index


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shard of 60 kB come in four requests."""
    monkeypatch.setattr("mixstream.storage.transfer.PART", 1 << 14)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return datasets on disk: three shards, raw and packed, and another one of the same sizes and other bytes."""
    root = tmp_path_factory.mktemp("corpora")
    kw: dict[str, Any] = {"shard_bytes": 60_000, "hashes": ["xxh64"]}
    return {
        "raw": write_tokens(root / "raw", range(8000), **kw),
        "other": write_tokens(root / "other", range(8001, 16001), **kw),
        "packed": write_tokens(root / "packed", range(8000), compression="zstd", **kw),
    }


@pytest.fixture
def place(s3: S3, corpora: dict[str, Path]) -> S3:
    """Return the raw dataset on the server."""
    s3.upload(corpora["raw"])
    return s3


@pytest.fixture(scope="session")
def contents(corpora: dict[str, Path]) -> dict[str, list[bytes]]:
    """Return the raw shards of the datasets."""
    return {name: _raw(directory) for name, directory in corpora.items()}


def _raw(directory: Path) -> list[bytes]:
    index = parse_index((directory / "index.json").read_bytes(), where=str(directory))
    found = []
    for shard in index.shards:
        if shard.zip is None or shard.compression is None:
            found.append((directory / shard.raw.basename).read_bytes())
        else:
            packed = (directory / shard.zip.basename).read_bytes()
            found.append(decompress(shard.compression, packed, raw_bytes=shard.raw.bytes, where=str(directory)))
    return found
