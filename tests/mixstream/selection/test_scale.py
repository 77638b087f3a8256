"""Memory at 2 · 10⁶ rows in 2,000 shards, as Python and numpy allocate it; bounds per row hold for any number."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from artefacts import MADE, QUALITY, entry, select, write_scores

from mixstream.selection import Scores, ScoresWriter, Selection, ShardTable, merge_scores

MIB = 1 << 20
SHARDS = [entry(f"shard.{number:05}.mds", 1000, 100_000 + number) for number in range(2000)]
TABLE = ShardTable.of(SHARDS)
VALUES = np.random.default_rng(0).random(TABLE.rows, dtype=np.float32)


def peak(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return the MiB that `act` had allocated at most, and its result."""
    tracemalloc.start()
    try:
        result = act()
        return tracemalloc.get_traced_memory()[1] / MIB, result
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def selection(tmp_path_factory) -> Selection:
    return select(tmp_path_factory.mktemp("scale"), TABLE, VALUES > 0.7)


def test_writing_a_selection_holds_one_shard(tmp_path):
    mask = VALUES > 0.7
    used, made = peak(lambda: select(tmp_path, TABLE, mask))
    assert used < 6, f"{used:.1f} MiB"  # the table of shards and its JSON; a byte per row would be 2
    assert made.kept == mask.sum()


def test_opening_costs_nothing_per_row(selection):
    used, view = peak(lambda: Selection.open(selection.path).view(SHARDS))
    assert used < 6, f"{used:.1f} MiB"
    shard_B = np.random.default_rng(1).integers(0, 2000, 100_000)
    sample_B = (np.random.default_rng(2).random(100_000) * view.samples_S[shard_B]).astype(np.int64)
    row_B = view.rows(shard_B, sample_B)
    assert (VALUES[TABLE.start_S[shard_B] + row_B] > 0.7).all()


def test_ordinals_take_eight_bytes_a_row(selection):
    used, ordinals = peak(selection.ordinals)
    assert used < ordinals.nbytes / MIB + 1
    assert np.array_equal(ordinals, np.flatnonzero(VALUES > 0.7))


def test_copies_for_other_processes_hold_no_rows(selection, tmp_path):
    selection.ordinals()
    assert len(pickle.dumps(selection)) < 1 * MIB
    scores = write_scores(tmp_path, TABLE, VALUES)
    assert scores.scored.all()
    copy = pickle.dumps(scores)
    assert len(copy) < 1 * MIB
    assert np.array_equal(pickle.loads(copy).column("quality"), VALUES)


def test_writing_and_merging_parts_holds_one_block(tmp_path):
    def write() -> Scores:
        for part in ((i, 4) for i in range(4)):
            with ScoresWriter(tmp_path, domain="web", table=TABLE, columns=[QUALITY], made=MADE, part=part) as writer:
                for begin in range(writer.begin, writer.end, 10_000):
                    end = min(begin + 10_000, writer.end)
                    writer.write(begin, {"quality": VALUES[begin:end]})
        return merge_scores(tmp_path)

    used, scores = peak(write)
    assert used < 12, f"{used:.1f} MiB"  # two pieces of 4 MiB and the table
    assert np.array_equal(scores.column("quality"), VALUES)
