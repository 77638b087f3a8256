"""The fingerprint of many shards is computed once for each text of an index, and believed of that text only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixstream.data.domain import Domain
from mixstream.formats import MANY
from mixstream.storage import DatasetFiles


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    return tmp_path / "temp"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how often the facts of all shards were gone through."""
    from mixstream.data import fingerprint

    calls: list[int] = []
    inner = fingerprint.content_facts
    monkeypatch.setattr(fingerprint, "content_facts", lambda shards: calls.append(1) or inner(shards))
    return calls


def declare(directory: Path, *, first: int = 0, extra: str = "") -> None:
    """Write an index of many shards that are not there."""
    shared = {"column_encodings": ["int"], "column_names": ["x"], "column_sizes": [8], "compression": None}
    shared |= {"format": "mds", "hashes": [], "size_limit": None, "version": 2, "zip_data": None, "samples": 1}
    entries = [
        shared | {"raw_data": {"basename": f"shard.{first + i:05}.mds", "bytes": 900, "hashes": {}}}
        for i in range(9000)
    ]
    directory.mkdir(exist_ok=True)
    data = json.dumps({"shards": entries, "version": 2, "extra": extra}).encode()
    assert len(data) >= MANY
    (directory / "index.json").write_bytes(data)


def fingerprint(directory: Path) -> str:
    return Domain.open(name="a", files=DatasetFiles.locate(remote=None, local=str(directory), split=None)).fingerprint


def test_it_is_computed_once(tmp_path: Path, computed: list[int]) -> None:
    declare(tmp_path / "d")
    found = [fingerprint(tmp_path / "d") for _ in range(3)]
    assert (found, len(computed)) == ([found[0]] * 3, 1)
    assert len(found[0]) == 32


def test_it_is_that_of_the_shards_and_kept_for_the_text(tmp_path: Path, computed: list[int]) -> None:
    declare(tmp_path / "d")
    before = fingerprint(tmp_path / "d")
    declare(tmp_path / "d", extra="other text, the same shards")
    assert (fingerprint(tmp_path / "d"), len(computed)) == (before, 2)
    declare(tmp_path / "d", first=1)
    assert fingerprint(tmp_path / "d") != before
    assert len(computed) == 3


def damages(text: bytes) -> dict[str, bytes]:
    return {
        "cut": text[:-1],
        "longer": text + b"0",
        "changed": text[:-1] + (b"0" if text[-1:] != b"0" else b"1"),
        "of another version": text.replace(b"fingerprint 1", b"fingerprint 0"),
        "empty": b"",
        "no number": text[:-2] + "\xff".encode("latin-1") * 2,
    }


@pytest.mark.parametrize("damage", [*damages(b"0")])
def test_a_damaged_one_is_computed_again(tmp_path: Path, temporary: Path, computed: list[int], damage: str) -> None:
    declare(tmp_path / "d")
    before = fingerprint(tmp_path / "d")
    (kept,) = temporary.rglob("fingerprint")
    kept.write_bytes(damages(kept.read_bytes())[damage])
    assert [fingerprint(tmp_path / "d") for _ in range(2)] == [before] * 2
    assert len(computed) == 2


def test_a_directory_that_others_can_write_is_not_believed(
    tmp_path: Path, temporary: Path, computed: list[int]
) -> None:
    declare(tmp_path / "d")
    before: Any = fingerprint(tmp_path / "d")
    (private,) = temporary.iterdir()
    private.chmod(0o777)
    assert (fingerprint(tmp_path / "d"), len(computed)) == (before, 2)
