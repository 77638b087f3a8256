"""Artefacts of real datasets: their shards have fingerprints, and streams of equal rows have equal tables."""

from __future__ import annotations

import numpy as np
import pytest
from artefacts import MADE, QUALITY

import mixstream as ms
from mixstream.errors import SelectionError
from mixstream.selection import ScoresWriter, Selection, ShardTable, fingerprint, merge_scores, write_selection

TEXTS = [f"text {'x' * (number % 7)}" for number in range(60)]


def write(out, texts, **kw):
    with ms.MDSWriter(out=str(out), columns={"text": "str"}, size_limit=400, **kw) as writer:
        for text in texts:
            writer.write({"text": text})
    return ms.StreamingDataset(remote=str(out)).domains[0]


def fingerprints(domain) -> dict[int, str]:
    shards = range(len(domain.shards))
    return {number: fingerprint(domain.container, number, domain.map(number)) for number in shards}


@pytest.fixture
def domain(tmp_path):
    return write(tmp_path / "web", TEXTS)


def test_a_fingerprint_tells_lengths_of_rows_apart(domain, tmp_path):
    found = fingerprints(domain)
    assert len(found) > 3
    assert all(len(text) == 32 for text in found.values())
    assert found == fingerprints(write(tmp_path / "raw", TEXTS, compression=None))
    longer = fingerprints(write(tmp_path / "other", [TEXTS[0] + "x", *TEXTS[1:-1]]))
    assert longer[0] != found[0]


def test_scores_of_every_row_become_a_selection_that_streams_can_read(domain, tmp_path):
    table = ShardTable.of(domain.shards)
    assert table.rows == 60
    known = fingerprints(domain)
    for i in range(3):
        with ScoresWriter(
            tmp_path / "scores", domain="web", table=table, columns=[QUALITY], made=MADE, part=(i, 3)
        ) as writer:
            for shard in range(writer.first_shard, writer.end_shard):
                data = domain.map(shard)
                rows = [len(domain.decode(shard, row, data)["text"]) for row in range(domain.shards[shard].samples)]
                writer.write(int(table.start_S[shard]), {"quality": np.array(rows, "f4")})
                writer.fingerprint(shard, known[shard])
    scores = merge_scores(tmp_path / "scores")
    assert scores.column("quality").tolist() == [len(text) for text in TEXTS]
    write_selection(
        tmp_path / "selection", domain="web", table=scores.table, kept=scores.column("quality") > 8, rule={},
        parents={"scores": scores.id}, made=MADE,
    )  # fmt: skip
    view = Selection.open(tmp_path / "selection").view(domain.shards)
    assert dict(enumerate(view.header_S)) == known
    kept = []
    for shard, count in enumerate(view.samples_S.tolist()):
        data = domain.map(shard)
        rows = view.rows(np.full(count, shard), np.arange(count)).tolist()
        kept += [domain.decode(shard, row, data)["text"] for row in rows]
    assert kept == [text for text in TEXTS if len(text) > 8]


def test_a_dataset_that_was_written_again_is_refused(domain, tmp_path):
    table = ShardTable.of(domain.shards)
    write_selection(tmp_path / "selection", domain="web", table=table, kept=[1, 2], rule={}, parents={}, made=MADE)
    other = write(tmp_path / "other", [text + "y" for text in TEXTS])
    with pytest.raises(SelectionError, match=r"was made for shard 'shard.00000.mds'"):
        Selection.open(tmp_path / "selection").view(other.shards)
