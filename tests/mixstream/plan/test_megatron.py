"""The order of Megatron-LM: against `megatron_reference`, and against numbers that its own code gave.

The numbers are of megatron-core 0.16.1 (`_build_document_sample_shuffle_indices`, `build_blending_indices`), with the
sequences of `LENGTHS`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace as Record
from typing import Any

import numpy as np
import pytest
from megatron_reference import Mt19937, reference

from mixstream.errors import ConfigError
from mixstream.plan.addressing import WholeShards
from mixstream.plan.forecast import Forecast
from mixstream.plan.megatron import Blend, MegatronRunPlan, build_sample_index, samples_needed, split_sequences
from mixstream.plan.megatron.blend import deal_reference
from mixstream.plan.megatron.sample_index import Epochs, sample_begins, sample_begins_reference
from mixstream.plan.run_plan import RunPlan
from mixstream.world import World

SEED = 1234
LENGTHS = [3, 0, 4, 5, 1, 0, 7]


def read(index: Any, lengths: list[int], *, seq_len: int, extra: int) -> list[list[tuple[int, int, int]]]:
    """Return the samples of an index as `reference` does, from where each of them begins."""
    found = []
    for j in index.shuffle_N.tolist():
        place, token = index.begin_N2[j].tolist()
        missing, parts = seq_len + extra, []
        while missing:
            i = int(index.sequence_D[place])
            if taken := min(lengths[i] - token, missing):
                parts.append((i, token, taken))
            missing, place, token = missing - taken, place + 1, 0
        found.append(parts)
    return found


def test_numpy_shuffles_as_the_published_order_does():
    random, ours = np.random.RandomState(1234), Mt19937(1234)
    for size, expected in ((5, [4, 0, 1, 2, 3]), (4, [2, 1, 3, 0]), (1000, None), (1, [0]), (0, [])):
        array, items = np.arange(size, dtype=np.int32), list(range(size))
        random.shuffle(array)
        ours.shuffle(items)
        assert array.tolist() == items
        assert expected is None or items == expected


def test_the_toy_of_the_description():
    begin_N2 = np.empty((3, 2), dtype=np.int32)
    sample_begins(np.array([3, 4, 5], dtype=np.int32), np.array([2, 0, 1], dtype=np.int32), 4, 1, begin_N2)
    assert begin_N2.tolist() == [[0, 0], [0, 4], [2, 0]]


@pytest.mark.parametrize(
    ("options", "sequence_D", "begin_N2", "shuffle_N"),
    [
        (
            (None, 4, 1, 1234),
            [2, 1, 6, 0, 4, 5, 3],
            [[0, 0], [2, 0], [2, 4], [3, 1], [6, 1]],
            [0, 2, 1, 3],
        ),
        (
            (7, 4, 1, 1234),  # two epochs together
            [5, 3, 0, 4, 6, 2, 2, 0, 1, 1, 4, 5, 6, 3],
            [[0, 0], [1, 4], [3, 0], [4, 3], [5, 0], [6, 0], [7, 0], [12, 0], [12, 4], [13, 1]],
            [7, 3, 5, 1, 4, 8, 0, 2, 6],
        ),
        (
            (6, 4, 1, 1234),  # the last one apart
            [2, 1, 6, 0, 4, 5, 3, 5, 0, 3, 4, 2, 6, 1],
            [[0, 0], [2, 0], [2, 4], [3, 1], [6, 1], [8, 0], [9, 1], [10, 0], [11, 3], [12, 3]],
            [1, 3, 2, 0, 5, 8, 7, 4, 6],
        ),
        (
            (7, 3, 0, 99),  # without the extra token, a sample may begin behind the last token of a sequence
            [2, 5, 4, 0, 6, 3, 1, 0, 3, 6, 1, 5, 4, 2],
            [[0, 0], [0, 3], [3, 1], [4, 1], [4, 4], [4, 7], [5, 3], [7, 1], [8, 1], [8, 4], [9, 2], [9, 5], [12, 1],
             [13, 3]],
            [3, 2, 4, 0, 5, 1, 7, 6, 8, 11, 10, 9, 12],
        ),
    ],
)  # fmt: skip
def test_arrays_are_those_of_its_own_code(
    options: tuple[int | None, int, int, int], sequence_D: list[int], begin_N2: list[list[int]], shuffle_N: list[int]
):
    num_samples, seq_len, extra, seed = options
    found = build_sample_index(
        np.array(LENGTHS, dtype=np.int32), range(7), num_samples=num_samples, seq_len=seq_len, extra=extra, seed=seed
    )
    assert found.sequence_D.tolist() == sequence_D
    assert found.begin_N2.tolist() == begin_N2
    assert found.shuffle_N.tolist() == shuffle_N
    assert (found.sequence_D.dtype, found.begin_N2.dtype, found.shuffle_N.dtype) == (np.int32, np.int32, np.uint32)


def test_samples_equal_the_description():
    random, seen = np.random.default_rng(7), set()
    for _ in range(60):
        lengths = [*random.integers(0, 12, int(random.integers(2, 14))).tolist(), 9]
        first = int(random.integers(0, len(lengths)))
        seq_len, extra, seed = int(random.integers(1, 9)), int(random.integers(0, 2)), int(random.integers(0, 1 << 32))
        num_samples = int(random.integers(1, 60)) if random.integers(0, 4) else None
        sequences = range(first, len(lengths))
        if sum(lengths[first:]) < seq_len + extra:
            continue
        options: dict[str, Any] = {"num_samples": num_samples, "seq_len": seq_len, "extra": extra, "seed": seed}
        order, samples = reference(lengths, sequences, **options)
        array = np.array(lengths, dtype=np.int32)
        found = build_sample_index(array, sequences, **options)
        assert found.sequence_D.tolist() == order
        assert read(found, lengths, seq_len=seq_len, extra=extra) == samples
        slow_N2 = np.empty_like(found.begin_N2)
        sample_begins_reference(array, found.sequence_D, seq_len, extra, slow_N2)
        assert slow_N2.tolist() == found.begin_N2.tolist()
        epochs = Epochs.of(tokens=sum(lengths[first:]), num_samples=num_samples, seq_len=seq_len, extra=extra)
        seen.add((epochs.count > 1, epochs.last_apart))
    assert seen == {(False, False), (True, False), (True, True)}


def test_too_few_tokens_are_refused():
    with pytest.raises(ConfigError, match="3 tokens hold no sample of seq_len=4"):
        Epochs.of(tokens=3, num_samples=None, seq_len=4, extra=1)
    with pytest.raises(ConfigError, match="0 tokens hold no sample"):  # where Megatron never returns
        Epochs.of(tokens=0, num_samples=8, seq_len=4, extra=1)


def test_more_sequences_than_megatron_can_number_are_refused():
    with pytest.raises(ConfigError, match="32 bits"):
        build_sample_index(np.ones(9, dtype=np.int32), range(1 << 31), num_samples=None, seq_len=4, extra=1, seed=SEED)


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "part", "sequences"),
    [
        ("969, 30, 1", "train", range(969)),
        ("969,30,1", "valid", range(969, 999)),
        ("969,30,1", "test", range(999, 1000)),
        ("90/10", "valid", range(900, 1000)),
        ("0.5,0.5", "train", range(500)),
        (None, "train", range(1000)),
    ],
)
def test_splits(split: str | None, part: str, sequences: range):
    assert split_sequences(split, part, 1000) == sequences


def test_splits_round_half_to_even():
    assert [split_sequences("1,1", "valid", sequences).start for sequences in (1, 3, 5, 7)] == [0, 2, 2, 4]


@pytest.mark.parametrize(("split", "fact"), [("1,0,0", "nothing"), ("99999,1", "none of 1000"), ("a,b", "no weights")])
def test_splits_that_give_nothing_are_refused(split: str, fact: str):
    with pytest.raises(ConfigError, match=fact):
        split_sequences(split, "valid", 1000)


# --- blends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "dataset_B"),
    [
        ([0.3, 0.7], [1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1]),
        ([1, 1, 1], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]),
        ([0.1, 0.2, 0.3, 0.4], [3, 2, 1, 0, 3, 2, 3, 1, 2, 3, 0, 3, 2, 1, 3, 2, 3, 1, 2, 3, 0, 3, 2, 1]),
    ],
)
def test_blends_are_those_of_its_own_code(weights: list[float], dataset_B: list[int]):
    blend = Blend.of(weights=weights)
    for deal in (blend.deal, lambda *arrays: deal_reference(blend.weight_K, blend.most_K, *arrays)):
        taken_K, found_B, sample_B = np.zeros(len(weights), np.int64), np.empty(24, np.int32), np.empty(24, np.int64)
        deal(taken_K, found_B[:7], sample_B[:7])  # in two pieces
        deal(taken_K, found_B[7:], sample_B[7:])
        assert found_B.tolist() == dataset_B
        assert sample_B.tolist() == [dataset_B[:i].count(d) for i, d in enumerate(dataset_B)]
        assert blend.taken(24).tolist() == taken_K.tolist() == np.bincount(dataset_B).tolist()


def test_an_exhaustive_blend_takes_every_sample():
    found_B = np.empty(12, np.int32)
    Blend.by_size(samples=[5, 2, 5], exhaustive=True).deal(np.zeros(3, np.int64), found_B, np.empty(12, np.int64))
    assert found_B.tolist() == [0, 2, 1, 0, 2, 0, 2, 1, 0, 2, 0, 2]


def test_a_blend_of_more_than_there_is_is_refused():
    blend = Blend.by_size(samples=[5, 2, 5], exhaustive=False)
    blend.check_enough(12, [5, 2, 5], "abc")
    with pytest.raises(ConfigError, match="takes 6 samples of 'a', which has 5"):
        blend.check_enough(14, [5, 2, 5], "abc")


def test_samples_needed_are_rounded_up_twice():
    weights = [0.123, 0.456, 0.421]
    assert samples_needed(997, weights) == [math.ceil(math.ceil(997 * w / sum(weights)) * 1.005) for w in weights]


# --- steps ----------------------------------------------------------------------------------------------------------


def planned(samples: int = 52, *, ranks: int = 2, rank: int = 0, batch_size: int = 4, micro: int | None = None) -> Any:
    domains: Any = tuple(
        Record(name=name, fingerprint=name, view=WholeShards(samples_S=np.array([size])))
        for name, size in (("web", 60), ("code", 20))
    )
    run_plan = RunPlan(
        domains=domains, choose_K=np.array([40, 12]), epoch_size=samples, max_epochs_K=(None, None), by_step=False,
        in_order=False, shuffle=False, shuffle_seed=1234, block_size=1, drop_last=False, mixer="megatron", lag=None,
        world=World(rank=rank, size=ranks), batch_size=batch_size, lanes=1,
    )  # fmt: skip
    return MegatronRunPlan.of(run_plan, blend=Blend.of(weights=[3, 1]), micro_batch_size=micro)


def of_megatron(samples: int, *, ranks: int, rank: int, rows: int) -> list[tuple[int, int]]:
    """Return what a rank reads, as its sampler says: of each `ranks` x `rows` samples, it takes its `rows`."""
    dataset_B, sample_B = np.empty(samples, np.int32), np.empty(samples, np.int64)
    Blend.of(weights=[3, 1]).deal(np.zeros(2, np.int64), dataset_B, sample_B)
    all_of_them = list(zip(dataset_B.tolist(), sample_B.tolist()))
    chunks = [all_of_them[i : i + rows * ranks] for i in range(0, samples, rows * ranks)]
    return [sample for chunk in chunks for sample in chunk[rank * rows : (rank + 1) * rows]]


@pytest.mark.parametrize("micro", [None, 4, 2, 1])
def test_ranks_read_micro_batches_as_its_sampler_deals_them_out(micro: int | None):
    for rank in range(2):
        run_plan = planned(rank=rank, micro=micro)
        cursor, mine = run_plan.plan.start(), []
        while (moved := run_plan.plan.advance(cursor)) is not None:
            cursor, rows = moved
            mine += list(zip(rows.domain_B[run_plan.part].tolist(), rows.draw_B[run_plan.part].tolist()))
        assert mine == of_megatron(48, ranks=2, rank=rank, rows=micro or 4)  # the last 4 of 52 fill no batch of 8
        assert (cursor.step, run_plan.plan.settle(cursor).epoch) == (6, 1)


def test_a_place_is_found_without_the_steps_before_it():
    plan = planned().plan
    cursor = plan.start()
    for step in range(6):
        found = plan.at_step(step)
        assert (found.step, found.drawn_LK.tolist()) == (cursor.step, cursor.drawn_LK.tolist())
        cursor, _ = plan.advance(cursor)
    assert plan.advance(plan.at_epoch(plan.start(), 1)) is None
    assert plan.at_epoch(cursor, 0).step == 0


def test_a_forecast_looks_over_several_steps():
    run_plan = planned(micro=2)
    shard_N, step_N = Forecast(run_plan).upcoming(run_plan.plan.start(), None, rows=24)
    assert sorted(shard_N.tolist()) == [0, 1]
    assert step_N.tolist() == [0.0, 0.0]
    assert Forecast(run_plan).distance(run_plan.plan.start(), None, np.array([0, 1])).tolist() == [0.0, 0.0]


def test_a_batch_of_no_whole_micro_batches_is_refused():
    with pytest.raises(ConfigError, match="batch_size=4 is no multiple of micro_batch_size=3"):
        planned(micro=3)
    assert replace(planned(), micro_batch_size=2).plan.chunk_rows == 2
