"""What an epoch takes from each stream, and in which order: specs/streaming_api.md section 1.4, DESIGN.md section 2."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from harness import FIRST, SIZES, joined, make_dataset, row_ids, streams, write_tokens
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError

ALL = [FIRST[name] + i for name in SIZES for i in range(SIZES[name])]


def epoch(dataset: ms.StreamingDataset) -> list[list[int]]:
    return [row_ids(batch) for batch in DataLoader(dataset, batch_size=dataset.batch_size)]


def counts(rows: list[int]) -> dict[str, int]:
    return {name: sum(row // 1000 == FIRST[name] // 1000 for row in rows) for name in SIZES}


def test_an_epoch_holds_every_sample_once_and_counted_repeats(library):
    dataset = make_dataset(library)
    for _ in range(3):
        rows = joined(epoch(dataset))
        assert len(rows) == 224
        assert set(rows) == set(ALL)
    rows = joined(epoch(make_dataset(library, drop_last=True)))
    assert len(rows) == len(set(rows)) == 216


@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_an_epoch_holds_every_sample_once_over_lanes(library, lanes):
    dataset = make_dataset(library, num_canonical_nodes=lanes)
    for _ in range(2):
        rows = joined(epoch(dataset))
        assert set(rows) == set(ALL)
        assert len(rows) == 224


@pytest.mark.parametrize(
    ("each", "kw", "expected"),
    [
        ({"web": {"repeat": 2}, "law": {"repeat": 0.5}}, {}, {"web": 300, "code": 50, "law": 9}),
        ({"web": {"choose": 10}, "law": {"repeat": 3}}, {}, {"web": 10, "code": 50, "law": 57}),
        ({"web": {"choose": 0}}, {}, {"web": 0, "code": 50, "law": 19}),
        ({}, {"epoch_size": 100}, {"web": 69, "code": 23, "law": 8}),
        ({}, {"epoch_size": "1k"}, {"web": 685, "code": 228, "law": 87}),
        ({}, {"epoch_size": 0}, {"web": 150, "code": 50, "law": 19}),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_what_an_epoch_takes_from_each_stream(library, each, kw, expected, shuffle):
    size = sum(expected.values())
    near = 0
    if kw.get("epoch_size"):  # by the recipe: leftovers to streams that numpy picks; the rows are exact over epochs
        near = 1
        p = np.array([150, 50, 19]) / 219
        choose = (size * p).astype(np.int64)
        choose[np.random.default_rng(9176).choice(3, size - choose.sum(), replace=False)] += 1
        expected = dict(zip(SIZES, choose.tolist()))
    dataset = make_dataset(library, streams=streams(library, **each), shuffle=shuffle, **kw)
    rows = joined(epoch(dataset))
    assert dataset.epoch_size == size
    found = counts(rows)
    assert sum(found.values()) == -(-size // 8) * 8
    assert [stream.choose for stream in dataset.streams] == list(expected.values())
    assert all(expected[name] - near <= found[name] for name in SIZES)  # and a few repeats, in the last batch
    for name in SIZES:
        taken = [row for row in rows if row // 1000 == FIRST[name] // 1000]
        times = [taken.count(FIRST[name] + i) for i in range(SIZES[name])]
        assert max(times) - min(times) <= 1  # a stream is gone through before it begins again


def test_proportions_are_resolved_bit_by_bit_and_written_on_the_streams(library):
    each = {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}
    given = streams(library, **each)
    dataset = make_dataset(library, streams=given, epoch_size=1000)
    assert [s.choose for s in dataset.streams] == [500, 300, 200]
    assert [s.proportion for s in dataset.streams] == [0.5, 0.3, 0.2]
    assert [s.repeat for s in dataset.streams] == [500 / 150, 300 / 50, 200 / 19]
    p = np.array([0.5, 0.3, 0.2])
    choose = (219 * (p / p.sum())).astype(np.int64)
    choose[np.random.default_rng(9176).choice(3, 219 - choose.sum(), replace=False)] += 1
    assert [
        s.choose for s in make_dataset(library, streams=given).streams
    ] == choose.tolist()  # and `given` is as it was


def test_the_static_mixer_is_the_same_as_proportions(library):
    each = {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}
    mixer = ms.mixers.Static({"law": 2, "web": 5, "code": 3})
    assert epoch(make_dataset(library, streams=streams(library, **each))) == epoch(make_dataset(library, mixer=mixer))


@pytest.mark.parametrize(
    ("each", "kw", "said"),
    [
        ({"web": {"proportion": 1}}, {}, "every stream or to none"),
        ({"web": {"proportion": 1}, "code": {"repeat": 1}}, {}, "every stream or to none"),
        ({"web": {"repeat": 2}}, {"epoch_size": 10}, "Only provide `choose` when weighting streams relatively"),
        ({name: {"choose": 0} for name in SIZES}, {}, "no samples at all"),
        ({name: {"proportion": 0} for name in SIZES}, {}, "all zero"),
        ({}, {"epoch_size": "many"}, "Unsupported value/suffix"),
    ],
)
def test_weights_that_contradict_each_other_are_refused(library, each, kw, said):
    with pytest.raises(ConfigError, match=said):
        make_dataset(library, streams=streams(library, **each), **kw)


# --- order ------------------------------------------------------------------------------------------------------------


def test_the_order_of_the_list_changes_no_mixed_batch(library):
    schedule = ms.mixers.Schedule({0: {"web": 3, "code": 2, "law": 1}})
    for kw in (
        {},
        {"mixer": schedule},
        {"drop_last": True, "num_canonical_nodes": 4},
        {"mixer": None, "epoch_size": 438},
    ):
        runs = [epoch(make_dataset(library, names, **kw)) for names in (["web", "code", "law"], ["law", "web", "code"])]
        assert runs[0] == runs[1]


def test_adding_a_domain_changes_no_other_domain_s_order(library):
    few, more = (make_dataset(library, names) for names in (["web", "law"], ["law", "code", "web"]))
    for _ in range(2):
        rows = [joined(epoch(dataset)) for dataset in (few, more)]
        for name in ("web", "law"):
            one, other = ([row for row in part if row // 1000 == FIRST[name] // 1000] for part in rows)
            assert one[: SIZES[name]] == other[: SIZES[name]]


def test_an_order_belongs_to_the_name_not_to_the_place(tmp_path, library):
    write_tokens(tmp_path / "elsewhere", range(FIRST["code"], FIRST["code"] + SIZES["code"]))
    here = make_dataset(library, ["code"])
    there = ms.StreamingDataset(
        streams=[ms.Stream(remote=str(tmp_path / "elsewhere"), name="code")], batch_size=8, shuffle=True
    )
    other = ms.StreamingDataset(remote=str(tmp_path / "elsewhere"), batch_size=8, shuffle=True)
    assert epoch(here) == epoch(there)
    assert epoch(make_dataset(library, ["code"])) != epoch(other)


@pytest.mark.parametrize("algo", ["py1e", "py1br", "py1s", "py2s", "naive"])
def test_every_shuffle_is_a_shuffle(library, algo):
    dataset = make_dataset(library, shuffle_algo=algo, shuffle_block_size=40, drop_last=True)
    first, second = joined(epoch(dataset)), joined(epoch(dataset))
    assert len(set(first)) == len(set(second)) == 216
    assert first != second
    assert first != sorted(first)
    web = [(row - 1000) // 15 for row in first if row < 2000]
    runs = 1 + sum(a != b for a, b in pairwise(web))  # of rows of one shard
    assert runs <= 10 if algo in ("py1s", "py2s") else runs > 30


def test_seeds_differ(library):
    runs = [epoch(make_dataset(library, shuffle_seed=seed)) for seed in (0, 1, 9176)]
    assert runs[0] != runs[1] != runs[2]
    assert runs[2] == epoch(make_dataset(library))


def test_iter_again_begins_the_next_epoch(library):
    dataset = make_dataset(library)
    expected = [joined(epoch(dataset)) for _ in range(3)]
    dataset = make_dataset(library)
    assert dataset.next_epoch == 0
    it = iter(dataset)
    assert [int(next(it)["tokens"][0]) for _ in range(5)] == expected[0][:5]
    assert dataset.next_epoch == 1
    assert [int(sample["tokens"][0]) for sample in dataset] == expected[1]
    assert joined(epoch(dataset)) == expected[2]
