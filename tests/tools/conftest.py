"""What the tests of the tools share: small corpora, and reading shards back through the library."""

import json
import os
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixstream.formats import decode_sample, parse_index, read_offsets
from mixstream_tools.cli import main

EOS = 256


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[[dict[str, str | bytes]], Path]:
    """Write files below tmp_path/src; returns that directory."""

    def write(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / "src" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "src"

    return write


@pytest.fixture
def read_rows() -> Callable[[Path], np.ndarray]:
    """Read all rows of a dataset, int64 [rows, seq_len], every shard checked against its index."""

    def read(directory: Path) -> np.ndarray:
        index = parse_index((directory / "index.json").read_bytes(), where=str(directory))
        rows = []
        for info in index.shards:
            path = directory / info.raw.basename
            data = path.read_bytes()
            offsets = read_offsets(data, info, where=str(path))
            for start, stop in pairwise(offsets):
                rows.append(decode_sample(data[start:stop], info, where=str(path))["tokens"])
        return np.array(rows, np.int64)

    return read


@pytest.fixture
def read_meta() -> Callable[[Path], dict[str, Any]]:
    return lambda directory: json.loads((directory / "index.json").read_bytes())["mixstream"]


@pytest.fixture
def convert_json(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run `mixstream convert … --json`, in this process if not told otherwise; returns status, document, stderr."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        workers = () if "--workers" in arguments else ("--workers", "1")
        status = main(["convert", *map(str, arguments), "--json", *workers])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


def tokens_of(documents: Iterable[str]) -> list[int]:
    """What the bytes tokenizer makes of documents."""
    return [token for document in documents for token in (*document.encode(), EOS)]


@pytest.fixture
def expected_rows() -> Callable[..., np.ndarray]:
    """The rows of documents that lie in one part: end to end, cut, the rest dropped."""

    def rows(documents: Iterable[str], seq_len: int) -> np.ndarray:
        tokens = tokens_of(documents)
        whole = len(tokens) // seq_len * seq_len
        return np.array(tokens[:whole], np.int64).reshape(-1, seq_len)

    return rows


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Every file of an output by its path, apart from locks."""

    def take(out: Path) -> dict[str, bytes]:
        files = (path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.endswith("lock"))
        return {os.fspath(path.relative_to(out)): path.read_bytes() for path in files}

    return take
