"""One epoch over a selection: it can also be found to be wrong."""

import numpy as np
import pytest

import mixstream as ms
from mixstream.selection import DomainRows, provenance, write_selection
from mixstream_tools.demo.selection.streamed import stream_kept


@pytest.fixture
def place(tmp_path):
    """Forty rows in four shards; the first shard has no kept row."""
    out = tmp_path / "shards/a/train"
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4"}, out=str(out), size_limit=300) as writer:
        for row in range(40):
            writer.write({"tokens": np.full(4, row, np.uint16)})
    reader = DomainRows.open(str(out), name="a")
    kept = np.arange(reader.table.start_S[1], 40, 2)
    write_selection(
        tmp_path / "kept/a",
        domain="a",
        table=reader.table,
        kept=kept,
        rule={},
        parents={},
        made=provenance({"test": 1}),
    )
    rows = [tokens.tobytes() for block in reader.blocks(column="tokens") for tokens in block.values]
    return tmp_path, rows, len(kept), len(reader.table.shards)


def streamed(place, rows):
    return stream_kept(place / "shards", {"a": place / "kept/a"}, {"a": rows}, place / "served", seed=0)


def test_all_kept_rows_arrive_from_the_shards_that_have_any(place):
    root, rows, kept, shards = place
    found = streamed(root, rows)
    assert found.exact
    assert (found.kept, found.arrived, found.repeated) == (kept, 32, 32 - kept)
    assert (found.shards, found.read) == (shards, shards - 1)
    assert 0 < found.bytes_read < found.bytes


def test_other_rows_are_found_out(place):
    root, rows, _, _ = place
    found = streamed(root, [rows[-1], *rows[:-1]])  # as if rows stood in other places than the selection means
    assert not found.exact
    assert found.missing > 0
    assert found.others > 0
