"""`order="megatron"`: batches are, rank by rank, the rows that a reading written from Megatron's description gives."""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from megatron_reference import reference
from token_files import megatron_pair, read_megatron, write_files
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError, ExhaustedError, IndexCorruptError, StateError

REAL = Path(__file__).parents[3] / "data" / "megatron"
SEQ_LEN, SEED = 8, 1234


def documents(seed: int, count: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [(1000 * seed + 20 * i + np.arange(random.integers(0, 20))).tolist() for i in range(count)]


CORPORA = {"web": documents(1, 30), "code": documents(2, 12), "math": documents(3, 20)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pairs")
    for name, texts in CORPORA.items():
        write_files(place / name, megatron_pair(texts, name))
    return place


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def rows_of(
    texts: list[list[int]],
    num_samples: int | None,
    sequences: range | None = None,
    extra: int = 1,
    seq_len: int = SEQ_LEN,
) -> list[list[int]]:
    """Return the rows of a dataset of Megatron, in the order in which it returns them."""
    lengths = [len(text) for text in texts]
    given = sequences or range(len(texts))
    _, samples = reference(lengths, given, num_samples=num_samples, seq_len=seq_len, extra=extra, seed=SEED)
    return [list(chain(*(texts[i][token : token + n] for i, token, n in parts))) for parts in samples]


def blended(names: list[str], weights: list[float], num_samples: int) -> list[list[int]]:
    """Return the rows of a blend: of the dataset that is furthest behind, the first of equals."""
    for _ in range(2):
        weights = (np.array(weights) / np.sum(weights)).tolist()
    needed = [math.ceil(math.ceil(num_samples * weight) * 1.005) for weight in weights]
    each = [iter(rows_of(CORPORA[name], n)) for name, n in zip(names, needed)]
    taken, rows = [0] * len(names), []
    for i in range(num_samples):
        errors = [weight * max(i, 1) - n for weight, n in zip(weights, taken)]
        best = errors.index(max(errors))
        rows.append(next(each[best]))
        taken[best] += 1
    return rows


def stream(place: Path, name: str, **options: Any) -> ms.Stream:
    return ms.Stream(local=str(place / name / f"{name}.idx"), name=name, seq_len=SEQ_LEN, overlap=1, **options)


def dataset(place: Path, *names: str, **options: Any) -> ms.StreamingDataset:
    weights = options.pop("weights", [None] * len(names))
    streams = [stream(place, name, proportion=weight) for name, weight in zip(names, weights)]
    return ms.StreamingDataset(
        **{"streams": streams, "batch_size": 4, "shuffle_seed": SEED, "order": "megatron"} | options
    )


def read(found: ms.StreamingDataset, **options: Any) -> Iterator[list[list[int]]]:
    with ms.Loader(found, **options) as loader:
        for batch in loader:
            yield batch["tokens"].tolist()


# --- the order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [None, 12, 40, 100])  # one epoch, and several of which the last is apart or not
def test_batches_of_one_pair_are_those_of_megatron(place: Path, num_samples: int | None):
    rows = rows_of(CORPORA["web"], num_samples)
    steps = (num_samples or len(rows)) // 4
    batches = list(read(dataset(place, "web", epoch_size=num_samples)))
    assert batches == [rows[4 * step : 4 * step + 4] for step in range(steps)]


def test_batches_of_the_real_pair_are_those_of_megatron():
    idx = REAL / "ag_news_prompt_inputs_document.idx"
    texts = read_megatron(idx.read_bytes(), idx.with_suffix(".bin").read_bytes())
    streams = [ms.Stream(remote=str(idx), seq_len=64, overlap=1)]
    options: dict[str, Any] = {"batch_size": 8, "shuffle_seed": SEED, "epoch_size": 120}
    order = ms.MegatronOrder(split="969, 30, 1")
    found = ms.StreamingDataset(streams=streams, order=order, **options)
    rows = rows_of(texts, 120, range(97), seq_len=64)
    assert list(chain(*read(found))) == rows[:120]


@pytest.mark.parametrize(("part", "sequences"), [("train", range(24)), ("valid", range(24, 30))])
def test_a_split_reads_its_sequences(place: Path, part: str, sequences: range):
    order = ms.MegatronOrder(split="80,20", part=part)
    rows = list(chain(*read(dataset(place, "web", order=order, batch_size=1))))
    assert rows == rows_of(CORPORA["web"], None, sequences)


def test_rows_without_the_extra_token(place: Path):
    streams = [ms.Stream(local=str(place / "web" / "web.idx"), seq_len=SEQ_LEN)]
    found = dataset(place, streams=streams, order=ms.MegatronOrder(extra_token=False), batch_size=1, epoch_size=50)
    assert list(chain(*read(found))) == rows_of(CORPORA["web"], 50, extra=0)[:50]


@pytest.mark.parametrize("weights", [[0.3, 0.2, 0.5], [1, 1, 1]])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_blend_reaches_the_ranks_as_in_megatron(place: Path, weights: list[float], ranks: int):
    names = ["web", "math", "code"]  # not sorted: the first of equals wins
    rows = blended(names, weights, 64)
    for rank in range(ranks):
        found = dataset(
            place, *names, weights=weights, epoch_size=64, rank=rank, world_size=ranks, batch_size=8 // ranks,
            order=ms.MegatronOrder(micro_batch_size=2),
        )  # fmt: skip
        chunks = [rows[i + 2 * rank : i + 2 * rank + 2] for i in range(0, 64, 2 * ranks)]
        assert list(chain(*read(found))) == list(chain(*chunks))


def test_streams_without_weights_are_blended_by_their_samples(place: Path):
    each = {name: rows_of(CORPORA[name], None) for name in ("web", "code")}
    found = list(chain(*read(dataset(place, "web", "code", batch_size=1))))
    assert sorted(found) == sorted(each["web"] + each["code"])  # all of them, once
    some = list(chain(*read(dataset(place, "web", "code", batch_size=1, epoch_size=10))))
    assert some == found[:10]


def test_a_single_weighted_prefix_is_a_blend(place: Path):
    found = dataset(place, "web", weights=[1.0], epoch_size=64, order=ms.MegatronOrder(split="100,0,0"))
    assert list(chain(*read(found))) == rows_of(CORPORA["web"], math.ceil(64 * 1.005))[:64]


def test_documents_are_the_sequences_of_a_row(place: Path):
    texts = CORPORA["web"]
    _, samples = reference(
        [len(text) for text in texts], range(30), num_samples=64, seq_len=SEQ_LEN, extra=1, seed=SEED
    )
    with ms.Loader(dataset(place, "web", epoch_size=64), documents=True) as loader:
        batches = list(loader)
    for step, batch in enumerate(batches):
        lengths = [[tokens for _, _, tokens in parts] for parts in samples[4 * step : 4 * step + 4]]
        assert batch["position_ids"].tolist() == [list(chain(*map(range, each))) for each in lengths]
        assert batch["cu_seqlens"].tolist() == np.cumsum([0, *chain(*lengths)]).tolist()


def test_megatron_takes_micro_batches_as_from_its_own_loader(place: Path):
    rows = rows_of(CORPORA["web"], 64)
    loader = ms.Loader(
        dataset(place, "web", epoch_size=64, order=ms.MegatronOrder(micro_batch_size=2), rank=1, world_size=2)
    )
    batches = ms.integrations.megatron.ExternalBatches(loader, micro_batch_size=2)
    for begin in range(2, 64, 4):
        batch = next(batches)
        assert batch["tokens"].tolist() == [row[:-1] for row in rows[begin : begin + 2]]
        assert batch["labels"].tolist() == [row[1:] for row in rows[begin : begin + 2]]


# --- positions ------------------------------------------------------------------------------------------------------


def steps_of(place: Path, ranks: int, state: dict[str, Any] | None, **options: Any) -> list[list[list[int]]]:
    """Return the global batches from a state on, sorted: ranks may hold other rows of them."""
    parts = []
    for rank in range(ranks):
        found = blend(place, rank=rank, world_size=ranks, batch_size=8 // ranks, **options)
        with ms.Loader(found) as loader:
            if state is not None:
                loader.load_state_dict(state)
            parts.append([batch["tokens"].tolist() for batch in loader])
    return [sorted(chain(*each)) for each in zip(*parts)]


def blend(place: Path, **options: Any) -> ms.StreamingDataset:
    return dataset(place, "web", "code", **{"weights": [3, 1], "epoch_size": 64} | options)


def test_a_run_goes_on_with_other_ranks_and_loaders(place: Path):
    whole = steps_of(place, 1, None)
    with ms.Loader(blend(place, batch_size=8)) as loader:
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        state = loader.state_dict()
    assert state["step"] == 3
    for ranks in (1, 2, 4):
        assert steps_of(place, ranks, state) == whole[3:]
    assert steps_of(place, 2, state, order=ms.MegatronOrder(micro_batch_size=2)) == whole[3:]
    loader = ms.StreamingDataLoader(blend(place, batch_size=8), batch_size=8, num_workers=2)
    loader.load_state_dict(state)
    assert [sorted(batch["tokens"].tolist()) for batch in loader] == whole[3:]
    plain = blend(place, batch_size=8)
    plain.load_state_dict(state)
    assert [sorted(batch["tokens"].tolist()) for batch in DataLoader(plain, batch_size=8)] == whole[3:]


def test_a_run_goes_on_whose_blend_takes_no_whole_samples(place: Path):
    with ms.Loader(blend(place, weights=[5, 2])) as loader:  # of 64 samples, 45.7 and 18.3
        next(batches := iter(loader))
        state = loader.state_dict()
        following = next(batches)["tokens"].tolist()
    with ms.Loader(blend(place, weights=[5, 2])) as loader:
        loader.load_state_dict(state)
        assert next(iter(loader))["tokens"].tolist() == following


def test_a_run_goes_on_after_the_samples_that_megatron_consumed(place: Path):
    whole = steps_of(place, 1, None)
    for ranks in (1, 2):
        assert steps_of(place, ranks, {"consumed_samples": 40}) == whole[5:]
    loader = ms.Loader(blend(place, batch_size=8))
    loader.load_state_dict({"consumed_samples": 64})
    assert loader.state_dict()["step"] == 8
    with pytest.raises(StateError, match="5 steps and 1 samples of a global batch of 8"):
        loader.load_state_dict({"consumed_samples": 41})
    with pytest.raises(StateError, match="more than the 64 samples"):
        loader.load_state_dict({"consumed_samples": 72})
    with pytest.raises(StateError, match="mosaicml-streaming"):
        loader.load_state_dict({"epoch": 0, "sample_in_epoch": 8, "num_canonical_nodes": 1, "shuffle_seed": 7})


def test_the_samples_come_once(place: Path):
    with ms.Loader(blend(place, batch_size=8)) as loader:
        assert len(list(loader)) == len(loader) == 8
        with pytest.warns(UserWarning, match="reads 64 samples once, in 8 steps"):
            assert list(loader) == []
        with pytest.raises(ExhaustedError, match="end the training here"):
            next(iter(loader))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shuffle_seed": 7}, "shuffle_seed: saved 1234, now 7"),
        ({"epoch_size": 72}, "epoch_size: saved 64, now 72"),
        ({"weights": [2, 1]}, "mixing method"),
        ({"order": ms.MegatronOrder(split="9,1,0")}, "saved 'megatron, all, .*now 'megatron, train of 9,1,0"),
    ],
)
def test_a_state_of_another_order_is_refused(place: Path, change: dict[str, Any], named: str):
    state = ms.Loader(blend(place, batch_size=8)).state_dict()
    for strict in (True, False):  # no position means the same in another order
        with pytest.raises(StateError, match=named):
            ms.Loader(blend(place, batch_size=8, **change)).load_state_dict(state, strict=strict)


def test_the_order_of_streams_is_part_of_the_run(place: Path):
    state = ms.Loader(dataset(place, "web", "code", weights=[1, 1], epoch_size=64)).state_dict()
    with pytest.raises(StateError, match="mixing method"):
        ms.Loader(dataset(place, "code", "web", weights=[1, 1], epoch_size=64)).load_state_dict(state)


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_samples_are_built_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = dataset(place, "web", epoch_size=64)
    (built,) = tmp_path.rglob("samples")
    built.with_name("samples.partial").write_bytes(b"of a killed process")
    monkeypatch.setattr("mixstream.data.sample_file.build_sample_index", None)
    again = dataset(place, "web", epoch_size=64)
    assert list(read(again)) == list(read(first)) == list(read(pickle.loads(pickle.dumps(first))))


def test_a_file_that_is_not_whole_is_built_again(place: Path, tmp_path: Path):
    rows = list(read(dataset(place, "web", epoch_size=64)))
    (built,) = tmp_path.rglob("samples")
    built.write_bytes(built.read_bytes()[:-1])
    assert list(read(dataset(place, "web", epoch_size=64))) == rows


def test_pairs_that_changed_are_other_samples(place: Path, tmp_path: Path):
    copy = tmp_path / "pair"
    shutil.copytree(place / "web", copy / "web")
    state = ms.Loader(dataset(copy, "web", epoch_size=64)).state_dict()
    ms.Loader(dataset(place, "web", epoch_size=64)).load_state_dict(state)  # the same pair elsewhere
    texts = CORPORA["web"]
    moved = [[*texts[0], *texts[1]], [], *texts[2:]]  # as many tokens and sequences
    write_files(copy / "web", megatron_pair(moved, "web"))
    assert list(chain(*read(dataset(copy, "web", epoch_size=64)))) == rows_of(moved, 64)[:64]
    with pytest.raises(StateError, match="has other shards"):
        ms.Loader(dataset(copy, "web", epoch_size=64)).load_state_dict(state)


def test_a_pair_is_fetched_whole(place: Path, tmp_path: Path):
    streams = [
        ms.Stream(remote=str(place / "web" / "web.idx"), local=str(tmp_path / "kept"), seq_len=SEQ_LEN, overlap=1)
    ]
    found = dataset(place, streams=streams, epoch_size=64)
    assert list(chain(*read(found))) == rows_of(CORPORA["web"], 64)[:64]
    sizes = [file.stat().st_size for file in (tmp_path / "kept").iterdir() if not file.name.startswith(".")]
    assert (place / "web" / "web.bin").stat().st_size in sizes


def test_pairs_of_a_store_need_its_index_once(s3: Any, place: Path, tmp_path: Path):
    for name, data in megatron_pair(CORPORA["web"], "web").items():
        s3.put(name, data)
    rows = rows_of(CORPORA["web"], 64)
    for local in ("first", "second"):
        remote = ms.Stream(remote=f"{s3.url}/web.idx", local=str(tmp_path / local), seq_len=SEQ_LEN, overlap=1)
        found = dataset(place, streams=[remote], epoch_size=64, cache_limit="1mb")
        assert list(chain(*read(found))) == rows[:64]
    assert len(list((tmp_path / "first").glob("*idx*"))) == 1
    assert not list((tmp_path / "second").glob("*idx*"))  # where samples lie is known


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"mixer": ms.mixers.ADO()}, "mixer=ADO makes the weights of each step"),
        ({"shuffle_algo": "py1br"}, "shuffle_algo='py1br' is of our own order"),
        ({"shuffle_block_size": 8}, "shuffle_block_size=8 is of our own order"),
        ({"batching_method": "per_stream"}, "batching_method='per_stream' is of our own order"),
        ({"sampling_method": "fixed"}, "sampling_method='fixed' is of our own order"),
        ({"num_canonical_nodes": 2}, "num_canonical_nodes=2"),
        ({"shuffle_seed": 1 << 32}, "takes no more than 32 bits"),
        ({"epoch_size": 3}, "a run of 3 samples has no global batch of 4 rows"),
        ({"order": ms.MegatronOrder(micro_batch_size=3)}, "no multiple of micro_batch_size=3"),
        ({"order": ms.MegatronOrder(extra_token=False)}, "give overlap=0"),
        ({"order": ms.MegatronOrder}, "is a class"),
        ({"order": "Megatron"}, "choose one of mixstream, mosaic, megatron"),
    ],
)  # fmt: skip
def test_options_of_other_orders_are_refused(place: Path, options: dict[str, Any], fact: str):
    with pytest.raises(ConfigError, match=fact):
        ms.Loader(dataset(place, "web", **{"epoch_size": 64} | options))


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"overlap": 0}, "give overlap=1"),
        ({"seq_len": None, "overlap": None}, "has no seq_len"),
        ({"choose": 4}, "has choose=4.*give `proportion`"),
        ({"selection": "sel"}, "has selection="),
        ({"packing": "concat"}, "has packing='concat'"),
        ({"max_epochs": 2}, "has max_epochs=2"),
        ({"proportion": 1}, "pass epoch_size="),
        ({"local": "DATA/code.bin"}, "files of the kind raw"),
        ({"local": "DATA"}, "has 2 pairs"),
    ],
)
def test_streams_that_megatron_does_not_read_are_refused(tmp_path: Path, options: dict[str, Any], fact: str):
    data = write_files(tmp_path / "data", megatron_pair(CORPORA["web"], "a") | megatron_pair(CORPORA["code"], "b"))
    raw = write_files(tmp_path / "raw", {"code.bin": bytes(400)})
    given: dict[str, Any] = {"local": str(data / "a.idx"), "seq_len": SEQ_LEN, "overlap": 1} | options
    if given["local"] == "DATA/code.bin":
        given |= {"local": str(raw / "code.bin"), "dtype": "uint16"}
    given["local"] = given["local"].replace("DATA", str(data))
    with pytest.raises(ConfigError, match=fact):
        dataset(tmp_path, streams=[ms.Stream(**given)])


def test_an_inconsistent_index_is_refused(tmp_path: Path):
    files = megatron_pair(CORPORA["web"], "web")
    damaged = bytearray(files["web.idx"])
    damaged[34] ^= 1
    write_files(tmp_path / "web", files | {"web.idx": bytes(damaged)})
    with pytest.raises(IndexCorruptError, match="sequence 1 is said to begin"):
        dataset(tmp_path, "web")


def test_more_than_one_epoch_without_weights_is_refused(place: Path):
    with pytest.raises(ConfigError, match="without weights Megatron reads no more"):
        dataset(place, "web", "code", epoch_size=1000)


def test_weights_are_those_of_all_streams_or_of_none(place: Path):
    with pytest.raises(ConfigError):
        dataset(place, "web", "code", weights=[1, None], epoch_size=64)
    with pytest.raises(ConfigError, match="Megatron refuses those that are not above 0"):
        dataset(place, "web", "code", weights=[1, 0], epoch_size=64)


def test_the_default_seed_is_warned_of(place: Path):
    with pytest.warns(UserWarning, match="shuffle_seed=9176 is the default of mixstream"):
        dataset(place, "web", shuffle_seed=9176)
