"""Vectors that exist: attributed to rows, or refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixstream.errors import ConfigError
from mixstream.selection import ShardIdentity, ShardTable
from mixstream.selection.embedders import EmbedderSpec

TABLE = ShardTable(
    shards=(
        ShardIdentity(name="shard.00000.mds", samples=3, raw_bytes=90),
        ShardIdentity(name="shard.00001.mds", samples=2, raw_bytes=70),
    )
)
VECTORS = np.arange(10, dtype=np.float32).reshape(5, 2) + 1


def write(path, vectors=VECTORS, groups=2, fixed=False, **columns):
    kind = pa.list_(pa.float32(), len(vectors[0])) if fixed else pa.list_(pa.float32())
    lists = pa.array([list(map(float, each)) for each in vectors], type=kind)
    pq.write_table(pa.table({"embedding": lists, **columns}), path, row_group_size=groups)
    return f"parquet:{path}"


def vectors_of(model, **options):
    return EmbedderSpec.parse(model, **options).vectors(TABLE, "web")


def test_npy_in_stored_order(tmp_path) -> None:
    np.save(tmp_path / "web.npy", VECTORS)
    found = vectors_of(f"npy:{tmp_path}/{{domain}}.npy")
    assert found.dimensions == 2
    assert found.range(1, 4).vectors_ND.tolist() == VECTORS[1:4].tolist()
    assert found.range(1, 4).there_N.all()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (np.zeros((4, 2)), "4 vectors, the dataset has 5 rows"),
        (np.zeros(5), "floats .rows, dimensions. are needed"),
        (np.array([[None]] * 5, dtype=object), "cannot be read"),
        (np.array([["a"]] * 5), "floats .rows, dimensions. are needed"),
    ],
)
def test_npy_that_does_not_fit_is_refused(tmp_path, content, told) -> None:
    np.save(tmp_path / "x.npy", content, allow_pickle=True)
    with pytest.raises(ConfigError, match=told):
        vectors_of(f"npy:{tmp_path}/x.npy")


def test_npy_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        vectors_of(f"npy:{tmp_path}/x.npy")


@pytest.mark.parametrize("fixed", [False, True])
def test_parquet_by_ordinal_in_any_order_and_with_gaps(tmp_path, fixed) -> None:
    order = [4, 0, 3]
    found = vectors_of(write(tmp_path / "v.parquet", VECTORS[order], ordinal=pa.array(order), fixed=fixed))
    assert found.dimensions == 2
    whole = found.range(0, 5)
    assert whole.there_N.tolist() == [True, False, False, True, True]
    assert whole.vectors_ND[whole.there_N].tolist() == VECTORS[[0, 3, 4]].tolist()
    assert found.range(3, 5).vectors_ND.tolist() == VECTORS[3:].tolist()
    assert not found.range(1, 3).there_N.any()


@pytest.mark.parametrize("shards", [["shard.00001.mds", "shard.00000.mds"], [1, 0]])
def test_parquet_by_shard_and_row_in_several_files(tmp_path, shards) -> None:
    write(tmp_path / "v1.parquet", VECTORS[[4]], shard=pa.array(shards[:1]), row=pa.array([1]))
    write(tmp_path / "v2.parquet", VECTORS[[2]], shard=pa.array(shards[1:]), row=pa.array([2]))
    whole = vectors_of(f"parquet:{tmp_path}/v*.parquet").range(0, 5)
    assert np.flatnonzero(whole.there_N).tolist() == [2, 4]
    assert whole.vectors_ND[[2, 4]].tolist() == VECTORS[[2, 4]].tolist()


def test_parquet_by_a_column_of_the_samples(tmp_path) -> None:
    model = write(tmp_path / "v.parquet", id=pa.array(["e", "d", "c", "b", "zz"]))
    found = vectors_of(model, key="id").range(1, 4, ["b", "c", "d"])
    assert found.vectors_ND.tolist() == VECTORS[[3, 2, 1]].tolist()
    with pytest.raises(ConfigError, match="--key id: two rows of the dataset have 'b'"):
        vectors_of(model, key="id").range(0, 2, ["b", "b"])


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"ordinal": [0, 1, 2, 3, 5]}, "ordinals 0 to 5, the dataset has 0 to 4"),
        ({"ordinal": [0, 1, 2, 3, -1]}, "ordinals -1 to"),
        ({"ordinal": [0, 1, 2, 3, 3]}, "ordinal 3 has two vectors"),
        ({"ordinal": [0, 3, 2, 1, 3]}, "ordinal 3 has two vectors"),
        ({"ordinal": [0, 1, 2, 3, None]}, "has gaps"),
        ({"shard": ["other"] * 5, "row": [0, 1, 2, 3, 4]}, "no shard 'other'"),
        ({"shard": ["shard.00001.mds"] * 5, "row": [0, 1, 2, 0, 0]}, "row 2 of shard 'shard.00001.mds', which has 2"),
        ({"shard": [7] * 5, "row": [0, 1, 2, 0, 0]}, "no shard 7"),
        ({"row": [0, 1, 2, 3, 4]}, "needed are embedding and ordinal, or shard and row"),
    ],
)
def test_parquet_whose_keys_do_not_fit_is_refused(tmp_path, columns, told) -> None:
    model = write(tmp_path / "v.parquet", groups=5, **{name: pa.array(each) for name, each in columns.items()})
    with pytest.raises(ConfigError, match=told):
        vectors_of(model).range(0, 5)


@pytest.mark.parametrize("lists", [[[1.0, 2.0], [1.0]], [[1.0], None], [[], []], [["a"], ["b"]], [1.0, 2.0]])
def test_parquet_without_proper_vectors_is_refused(tmp_path, lists) -> None:
    pq.write_table(pa.table({"embedding": lists, "ordinal": [0, 1]}), tmp_path / "v.parquet")
    with pytest.raises(ConfigError, match=r"parquet:.*column embedding"):
        vectors_of(f"parquet:{tmp_path}/v.parquet").range(0, 5)


def test_parquet_of_changing_dimensions_is_refused(tmp_path) -> None:
    write(tmp_path / "v1.parquet", [[1.0, 2.0]], ordinal=pa.array([0]))
    write(tmp_path / "v2.parquet", [[1.0]], ordinal=pa.array([1]))
    with pytest.raises(ConfigError, match="vectors of 1 and of 2 dimensions"):
        vectors_of(f"parquet:{tmp_path}/v*.parquet").range(0, 5)
    with pytest.raises(ConfigError, match="no file matches"):
        vectors_of(f"parquet:{tmp_path}/w*.parquet")
    (tmp_path / "v.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        vectors_of(f"parquet:{tmp_path}/v.parquet")
