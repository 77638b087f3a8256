from __future__ import annotations

import gc
import pickle
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import FIRST, SIZES, joined, loaders_of, make_dataset, row_ids, streams, write_tokens
from torch.utils.data import DataLoader, IterableDataset

import mixstream as ms
from mixstream.errors import ConfigError, IndexCorruptError, UnsafeEncodingError
from mixstream.formats import FileInfo, Index, ShardInfo, dump_index

ALL = [FIRST[name] + i for name in SIZES for i in range(SIZES[name])]


def epoch(dataset: ms.StreamingDataset) -> list[list[int]]:
    return [row_ids(batch) for batch in DataLoader(dataset, batch_size=dataset.batch_size)]


# --- what it is -------------------------------------------------------------------------------------------------------


def test_it_has_the_attributes_of_its_namesake(library):
    dataset = make_dataset(library)
    assert isinstance(dataset, IterableDataset)
    assert (dataset.num_samples, dataset.size, dataset.epoch_size, dataset.length) == (219, 219, 219, 219)
    assert (dataset.num_streams, dataset.num_shards, len(dataset.shards)) == (3, 16, 16)
    assert dataset.samples_per_stream.tolist() == [150, 50, 19]
    assert dataset.sample_offset_per_stream.tolist() == [0, 150, 200]
    assert dataset.shards_per_stream.tolist() == [10, 4, 2]
    assert dataset.shard_offset_per_stream.tolist() == [0, 10, 14]
    assert dataset.stream_per_shard.tolist() == [0] * 10 + [1] * 4 + [2] * 2
    assert dataset.samples_per_shard.sum() == 219
    assert dataset.sample_offset_per_shard[:3].tolist() == [0, 15, 30]
    assert dataset.domain_names == ["web", "code", "law"]
    assert dataset.num_canonical_nodes is None  # Foundry reads it: None where it was not given
    assert (dataset.batch_size, dataset.predownload, dataset.shuffle, dataset.shuffle_seed) == (8, 64, True, 9176)
    assert make_dataset(library, batch_size=None).predownload == 64
    assert {dataset: 1}[dataset] == 1  # hashable


def test_len_is_samples_of_a_rank_and_epoch(library):
    assert len(make_dataset(library)) == 28 * 8
    assert len(make_dataset(library, drop_last=True)) == 27 * 8
    assert len(make_dataset(library, batch_size=4, rank=1, world_size=2)) == 28 * 4


def test_iterating_needs_a_batch_size(library):
    dataset = make_dataset(library, batch_size=None, predownload=64)
    with pytest.raises(ConfigError, match="Please pass `batch_size` to StreamingDataset"):
        next(iter(dataset))


def test_samples_can_be_had_one_by_one(library):
    dataset: Any = make_dataset(library)
    assert [int(sample["tokens"][0]) for sample in dataset[:]] == ALL
    for number in (0, 14, 15, 149, 150, 218, -1, -219):
        assert int(dataset[number]["tokens"][0]) == ALL[number]
        assert dataset.get_item(number)["tokens"].tolist() == [ALL[number]] * 8
    assert int(dataset[np.int64(200)]["tokens"][0]) == 3000
    assert [int(s["tokens"][0]) for s in dataset[148:152]] == ALL[148:152]
    assert [int(s["tokens"][0]) for s in dataset[::-50]] == ALL[::-50]
    assert [int(s["tokens"][0]) for s in dataset[[3, -3]]] == [ALL[3], ALL[-3]]
    assert [int(s["tokens"][0]) for s in dataset[np.array([5, 200])]] == [ALL[5], ALL[200]]
    assert [[int(s["tokens"][0]) for s in part] for part in dataset[[[1], [2, 3]]]] == [[ALL[1]], [ALL[2], ALL[3]]]
    assert list(dataset[5:5]) == []


@pytest.mark.parametrize("number", [219, -220, 10**12])
def test_numbers_out_of_range(library, number):
    with pytest.raises(IndexError, match=f"sample {number} of a dataset that has 219"):
        make_dataset(library)[number]


@pytest.mark.parametrize("number", ["3", 1.0, None, {}])
def test_what_is_no_number_is_refused(library, number):
    with pytest.raises(ConfigError, match="int, a slice, a list or an array"):
        make_dataset(library)[number]


def test_samples_are_sorted_by_column_and_the_user_s_to_change(tmp_path):
    with ms.MDSWriter(columns={"z": "str", "a": "int", "m": "ndarray:int32:2"}, out=str(tmp_path / "d")) as writer:
        writer.write({"z": "text", "a": 5, "m": np.array([1, 2], "i4")})
    dataset = ms.StreamingDataset(remote=str(tmp_path / "d"))
    sample = dataset[0]
    assert list(sample) == ["a", "m", "z"]
    assert (sample["a"], sample["z"], sample["m"].tolist()) == (5, "text", [1, 2])
    sample["m"][:] = 7
    assert dataset[0]["m"].tolist() == [1, 2]


def test_it_travels_to_other_processes(library):
    dataset = make_dataset(library)
    first = epoch(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    assert epoch(copy) == epoch(dataset) != first  # with its position, and then by itself
    assert copy.next_epoch == dataset.next_epoch == 2
    epoch(copy)
    assert (copy.next_epoch, dataset.next_epoch) == (3, 2)


# --- size -------------------------------------------------------------------------------------------------------------


def declare(out: Path, samples: int, shards: int = 50) -> Path:
    """Write an index, and no shard."""
    columns = {"column_names": ("x",), "column_encodings": ("uint8",), "column_sizes": (1,)}
    each = samples // shards
    infos = tuple(
        ShardInfo(
            samples=each,
            **columns,
            compression=None,
            hashes=(),
            size_limit=None,
            raw=FileInfo(basename=f"shard.{number:05}.mds", bytes=5 * each + 1000, hashes={}),
            zip=None,
        )
        for number in range(shards)
    )
    out.mkdir()
    (out / "index.json").write_bytes(dump_index(Index(shards=infos, extra={})))
    return out


def test_start_up_and_memory_do_not_grow_with_samples(tmp_path):
    peaks = []
    for samples in (10**3, 10**5, 10**7, 10**9):  # the first is to warm up
        root = declare(tmp_path / str(samples), samples)
        tracemalloc.start()
        dataset = ms.StreamingDataset(
            remote=str(root), batch_size=64, shuffle=True, num_canonical_nodes=8, shuffle_block_size=1 << 40
        )
        run = dataset.run
        first: Any = run.walk(run.start(), None).advance()
        (at,) = run.run_plan.addressing.locate([first], run.run_plan.part)
        assert len(set(dataset.number(at).tolist())) == 64
        assert dataset.number(at).max() < samples == dataset.size
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks[1:]) < 1.2 * min(peaks[1:])
    assert max(peaks) < 4 << 20


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kw", "said"),
    [
        ({"streams": None}, "either `streams` or `remote`/`local`, but not both"),
        ({"streams": []}, "either `streams` or `remote`/`local`, but not both"),
        ({"remote": "x"}, "either `streams` or `remote`/`local`, but not both"),
        ({"batching_method": "odd"}, "Invalid batching method: batching_method='odd' is not known"),
        ({"shuffle_algo": "odd"}, "shuffle_algo='odd' is not known; choose one of py1e, py1br, py1s, py2s, naive"),
        ({"sampling_method": "odd"}, "balanced, fixed"),
        ({"partition_algo": "odd"}, "orig, relaxed"),
        ({"predownload": -1}, "`predownload` must be at least 0 rows, got -1"),
        ({"sampling_granularity": 0}, "`sampling_granularity` must be at least 1, got 0"),
        ({"shuffle_seed": -1}, "`shuffle_seed` must be at least 0, got -1"),
        ({"streams": "s3://x"}, r"list of mixstream\.Stream"),
        ({"streams": ["s3://x"]}, r"list of mixstream\.Stream"),
        ({"mixer": "ADO"}, "mixer='ADO' is no mixer"),
        ({"mixer": ms.mixers.LMO()}, r"give mixer=MatrixMixer\(lmo=LMO\(\.\.\.\)\)"),
        ({"mixer": ms.mixers.LMO(targets={"web": 1})}, r"give mixer=MatrixMixer\(lmo=LMO\(\.\.\.\)\)"),
        ({"lag": -1}, "`lag` must be at least 0 steps, got -1"),
        ({"lag": 2.5}, r"`lag` is a whole number of steps, got 2\.5"),
        ({"epoch_size": -5}, "`epoch_size` must be at least 0 samples, got -5"),
        ({"batch_size": 0}, "`batch_size` must be at least 1 row, got 0"),
        ({"batch_size": 8.0}, "`batch_size` is a whole number of rows, got 8.0; write 8"),
        ({"shuffle_block_size": 0}, "shuffle_block_size`? must be at least 1 sample, got 0"),
        ({"rank": 1}, "both rank and world_size or neither"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world size 2 is out of range"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(library, kw, said):
    with pytest.raises(ConfigError, match=said):
        make_dataset(library, **kw)


@pytest.mark.parametrize(
    ("kw", "said"),
    [
        ({"batch_size": 300, "drop_last": True}, "epoch of 219 rows holds no full global batch of 300 rows"),
        (
            {"replication": 3, "rank": 0, "world_size": 4},
            "replication=3 must be at least 1 and divide the world size 4",
        ),
    ],
)
def test_runs_that_cannot_be_are_refused_before_the_first_batch(library, kw, said):
    with pytest.raises(ConfigError, match=said):
        ms.Loader(make_dataset(library, **kw)).dataset.run.run_plan.addressing  # noqa: B018 - what the first batch asks for


def test_an_unknown_argument_is_a_type_error(library):
    with pytest.raises(TypeError, match="unexpected keyword argument 'shufle'"):
        make_dataset(library, shufle=True)


def test_pickled_columns_need_permission(tmp_path):
    with ms.MDSWriter(columns={"x": "pkl"}, out=str(tmp_path / "d")) as writer:
        writer.write({"x": {1, 2}})
    with pytest.raises(UnsafeEncodingError, match="Column x contains an unsafe type: pkl"):
        ms.StreamingDataset(remote=str(tmp_path / "d"))
    assert ms.StreamingDataset(remote=str(tmp_path / "d"), allow_unsafe_types=True)[0] == {"x": {1, 2}}


def test_an_index_that_is_no_index_is_refused(tmp_path):
    (tmp_path / "index.json").write_text('{"version": 2, "shards": [{"samples": -1}]}')
    with pytest.raises(IndexCorruptError, match=r"index\.json"):
        ms.StreamingDataset(remote=str(tmp_path))


def test_a_validated_hash_must_be_one_that_shards_have(library):
    with pytest.raises(ConfigError, match=r"validate_hash='sha1', but shard shard\.00000\.mds carries the hashes"):
        make_dataset(library, validate_hash="sha1")


def test_the_single_stream_form(library):
    whole = make_dataset(library, ["web"])
    forms: list[dict[str, Any]] = [
        {"remote": str(library / "web")},
        {"local": str(library / "web")},
        {"remote": str(library), "split": "web"},
        {"remote": f"file://{library}/web"},
        {"remote": str(library / "web"), "streams": [], "stream_config": {"name": "web"}},
    ]
    for kw in forms:
        dataset = ms.StreamingDataset(batch_size=8, shuffle=True, **kw)
        assert dataset.size == 150
        if dataset.domain_names == ["web"]:
            assert epoch(dataset) == epoch(make_dataset(library, ["web"]))
    assert whole.domain_names == ["web"]


def test_a_cache_limit_is_given_in_bytes_or_in_words(library):
    assert make_dataset(library, cache_limit="1gb").cache_limit == 1 << 30
    with pytest.raises(ConfigError, match="Unsupported value/suffix"):
        make_dataset(library, cache_limit="a lot")


def test_a_domain_of_fewer_samples_than_lanes_is_read_whole(tmp_path):
    write_tokens(tmp_path / "tiny", range(1000, 1003))
    write_tokens(tmp_path / "big", range(2000, 2030))
    dataset: Any = make_dataset(tmp_path, ["tiny", "big"], num_canonical_nodes=8)
    for _ in range(3):
        assert set(joined(epoch(dataset))) == {*range(1000, 1003), *range(2000, 2030)}
    schedule = ms.mixers.Schedule({0: {"tiny": 1, "big": 1}})
    with loaders_of(tmp_path, streams=streams(tmp_path, ["tiny", "big"]), lanes=8, mixer=schedule) as (loader,):
        rows = joined(row_ids(batch) for batch in loader)
    assert abs(sum(row < 2000 for row in rows) - len(rows) / 2) < 16


@pytest.mark.parametrize("lanes", [0, -1])
def test_lanes_that_cannot_be_are_refused(library, lanes):
    with pytest.raises(ConfigError, match=f"`num_canonical_nodes` must be at least 1 lane, got {lanes}"):
        make_dataset(library, num_canonical_nodes=lanes)


def test_the_length_is_known_without_asking_the_mixer(library):
    class Picky:
        def init(self, prior_K):
            raise ConfigError("not for these domains")

        def update(self, state, feedback):
            return state, feedback.weights_K

    dataset = make_dataset(library, mixer=Picky())
    assert len(dataset) == len(make_dataset(library))
    with pytest.raises(ConfigError, match="not for these domains"):
        ms.Loader(dataset)


@pytest.mark.parametrize("order", ["mixstream", "mosaic"])
def test_a_dataset_that_is_dropped_unmaps_its_shards_at_once(library, order):
    dataset = make_dataset(library, order=order)
    next(iter(dataset))
    dataset.load_state_dict(dataset.state_dict(8))
    next(iter(DataLoader(dataset, batch_size=8)))
    gone = weakref.ref(dataset), weakref.ref(dataset.domains.opened)
    gc.collect()
    gc.disable()
    try:
        del dataset
        assert [of() for of in gone] == [None, None]
    finally:
        gc.enable()
