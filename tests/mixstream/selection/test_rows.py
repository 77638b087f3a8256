"""The stored rows of a domain: in order, by shard range, and no shard is read for nothing."""

import gc
from pathlib import Path

import numpy as np
import pytest

import mixstream as ms
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.selection import DomainRows, ShardTable, fingerprint

TEXTS = [f"text number {at} " * (at % 5 + 1) for at in range(40)]


def write(out: Path, columns: dict[str, str], samples: list[dict], **options) -> Path:
    with ms.MDSWriter(out=str(out), columns=columns, **{"size_limit": 600, **options}) as writer:
        for sample in samples:
            writer.write(sample)
    return out


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    samples = [{"text": text, "id": at} for at, text in enumerate(TEXTS)]
    return write(tmp_path_factory.mktemp("texts"), {"text": "str", "id": "int"}, samples, compression="zstd")


def read(rows: DomainRows, *args, **options):
    return [(int(o), value) for b in rows.blocks(*args, **options) for o, value in zip(b.ordinal_N, b.values)]


def test_all_rows_come_in_order(texts) -> None:
    rows = DomainRows.open(str(texts), name="web")
    assert len(rows.table.shards) > 3
    assert read(rows, column="text", size=3) == list(enumerate(TEXTS))
    assert read(rows)[7] == (7, {"id": 7, "text": TEXTS[7]})
    assert all(block.ordinal_N.dtype == np.int64 and len(block.values) <= 3 for block in rows.blocks(size=3))


def test_shard_ranges_partition_the_rows_and_blocks(texts) -> None:
    rows = DomainRows.open(str(texts), name="web")
    whole = [block.ordinal_N.tolist() for block in rows.blocks(column="text", size=4)]
    parts = [rows.table.part(i, 3) for i in range(3)]
    assert [b.ordinal_N.tolist() for part in parts for b in rows.blocks(*part, column="text", size=4)] == whole


def test_wanted_rows_and_only_their_shards(texts) -> None:
    rows = DomainRows.open(str(texts), name="web")
    wanted = {0: np.array([1, 2], dtype=np.uint32), 2: np.array([0])}
    found = read(rows, column="text", wanted=lambda shard: wanted.get(shard, np.array([], dtype=np.int64)))
    begin = int(rows.table.start_S[2])
    assert found == [(1, TEXTS[1]), (2, TEXTS[2]), (begin, TEXTS[begin])]
    assert set(rows.fingerprints) == {0, 2}
    (texts.parent / "gone").mkdir(exist_ok=True)
    for file in texts.iterdir():
        if "00001" not in file.name:
            (texts.parent / "gone" / file.name).write_bytes(file.read_bytes())
    lacking = DomainRows.open(str(texts.parent / "gone"), name="web")
    assert read(lacking, column="text", wanted=lambda shard: wanted.get(shard, [])) == found


def test_fingerprints_are_those_of_the_headers(texts) -> None:
    rows = DomainRows.open(str(texts), name="web")
    list(rows.blocks(column="text"))
    domain = rows.domain
    assert rows.fingerprints == {n: fingerprint(domain.container, n, domain.map(n)) for n in range(len(domain.shards))}
    assert rows.table == ShardTable.of(domain.shards)


def test_one_shard_is_mapped_at_a_time(texts) -> None:
    rows = DomainRows.open(str(texts), name="web")

    def mapped() -> int:
        return sum("shard.0" in line for line in Path("/proc/self/maps").read_text().splitlines())

    gc.collect()
    before, most = mapped(), 0
    for _ in rows.blocks(column="text", size=2):
        most = max(most, mapped() - before)
    assert most == 1


def test_a_damaged_shard_is_an_error(texts, tmp_path) -> None:
    for file in texts.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = min(tmp_path.glob("shard.00001*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    rows = DomainRows.open(str(tmp_path), name="web")
    with pytest.raises(ShardCorruptError):
        read(rows, column="text")


def test_a_remote_domain_is_read_within_a_cache_limit(s3, tmp_path) -> None:
    long = [f"{at} " * 1000 for at in range(100, 160)]
    stored = write(tmp_path / "stored", {"text": "str"}, [{"text": text} for text in long], size_limit=24_000)
    s3.upload(stored)
    limit = 60_000  # two shards and the index, of twelve
    rows = DomainRows.open(s3.url, name="web", local=str(tmp_path / "cache"), cache_limit=limit)
    seen, most = [], 0
    for block in rows.blocks(column="text"):
        seen += block.values
        most = max(most, sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()))
    assert seen == long
    assert most <= limit
    assert len(rows.table.shards) == 12


@pytest.mark.parametrize(
    ("columns", "name", "found"),
    [
        ({"text": "str", "tokens": "ndarray:uint16:4"}, None, ("text", "text")),
        ({"text": "str", "tokens": "ndarray:uint16:4"}, "tokens", ("tokens", "tokens")),
        ({"tokens": "ndarray:int32", "id": "int"}, None, ("tokens", "tokens")),
        ({"content": "str", "id": "int"}, None, ("content", "text")),
        ({"input_ids": "ndarray:uint32"}, "input_ids", ("input_ids", "tokens")),
    ],
)
def test_the_column_of_the_text(tmp_path, columns, name, found) -> None:
    values = {"str": "red", "int": 1, "ndarray:uint16:4": np.zeros(4, np.uint16)}
    values |= {f"ndarray:{dtype}": np.zeros(3, dtype) for dtype in ("int32", "uint32")}
    sample = {key: values[kind] for key, kind in columns.items()}
    column = DomainRows.open(str(write(tmp_path, columns, [sample])), name="web").text_column(name)
    assert (column.name, column.kind) == found


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, r"none of the columns \['a', 'b', 'grid', 'score'\] is clearly the text"),
        ("missing", "column 'missing' is missing"),
        ("score", "column 'score' is ndarray:float32:2"),
        ("grid", "column 'grid' is ndarray:int32:2,2"),
    ],
)
def test_a_column_that_is_no_text_is_refused(tmp_path, name, told) -> None:
    columns = {"a": "str", "b": "str", "score": "ndarray:float32:2", "grid": "ndarray:int32:2,2"}
    sample = {"a": "x", "b": "y", "score": np.zeros(2, np.float32), "grid": np.zeros((2, 2), np.int32)}
    rows = DomainRows.open(str(write(tmp_path, columns, [sample])), name="web")
    with pytest.raises(ConfigError, match=told):
        rows.text_column(name)
