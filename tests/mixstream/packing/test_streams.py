"""Streams of packed rows: every kept token once, at every place of a run, and nothing of what is not packed."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import joined
from packings import PAD, batches, numbered, pack, rows_of, write_documents, write_rows
from selections import keep

import mixstream as ms
from mixstream.errors import ConfigError, SelectionError, StateError
from mixstream.packing import Packing

pytestmark = pytest.mark.filterwarnings("ignore:packed rows of .* have padding")
RNG = np.random.default_rng(5)
LENGTHS = (RNG.pareto(1.2, 120) * 8 + 1).astype(int).clip(1, 150).tolist()
DOCUMENTS = numbered(LENGTHS)
TOKENS = np.concatenate(DOCUMENTS)
EOS = 3_999_999_999


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of documents, in several shards."""
    return write_documents(tmp_path_factory.mktemp("packed") / "web", DOCUMENTS, loss_mask="ndarray:uint8")


@pytest.fixture(scope="module")
def packed(web: Path) -> Path:
    pack(web.parent / "packing", web)
    return web.parent / "packing"


def stream(web: Path, packing: Path | str, **options: Any) -> ms.Stream:
    return ms.Stream(remote=str(web), packing=packing, **options)


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["concat", "best-fit", "first-fit"])
@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("seed", [None, 3])
def test_every_kept_token_is_read_once(web, tmp_path, algorithm, selected, seed):
    kept = [number for number in range(len(DOCUMENTS)) if not selected or number % 3]
    if selected:
        keep(tmp_path / "sel", web, kept)
    made = pack(tmp_path / "p", web, algorithm=algorithm, selection=tmp_path / "sel" if selected else None, seed=seed)
    rows = rows_of(tmp_path / "p", web)
    found = [token for row in rows for token in row]
    expected = np.concatenate([DOCUMENTS[number] for number in kept])
    assert len(rows) == made.totals.rows
    assert len(found) == len(set(found)) == made.totals.tokens == len(expected) - made.totals.dropped
    assert set(found) <= set(expected.tolist())
    if algorithm != "concat":
        assert made.totals.dropped == 0
        whole = [number for number in kept if LENGTHS[number] <= 32]
        at = {token: number for number, row in enumerate(rows) for token in row}
        assert all(len({at[token] for token in DOCUMENTS[number].tolist()}) == 1 for number in whole)
        assert made.totals.cut == len(kept) - len(whole)


def test_seeds_give_other_rows_of_the_same_documents(web, tmp_path):
    made = [pack(tmp_path / f"p{seed}", web, seed=seed) for seed in (None, 1, 2, 1)[:3]]
    again = pack(tmp_path / "again", web, seed=1)
    assert len({each.id for each in made}) == 3
    assert again.id == made[1].id
    assert rows_of(tmp_path / "again", web) == rows_of(tmp_path / "p1", web) != rows_of(tmp_path / "p2", web)


def test_parts_do_not_show(web, packed, tmp_path):
    made = pack(tmp_path / "p", web, parts=3)
    assert made.id == Packing.open(packed).id
    for name in ("begins.npy", "spans.npy", "counts.npy", "hashes.npy"):
        assert (tmp_path / "p" / name).read_bytes() == (packed / name).read_bytes()
    assert not (tmp_path / "p" / "parts").exists()


def test_columns_of_equal_length_are_packed_alike(web, packed):
    for batch in batches(stream(web, packed)):
        here = batch["tokens"] != PAD
        assert batch["loss_mask"].shape == here.shape == (4, 32)
        assert (batch["loss_mask"][here] == batch["tokens"][here] % 2).all()
        assert (batch["loss_mask"][~here] == 0).all()


@pytest.mark.parametrize("length", [5, 8, 20])
@pytest.mark.parametrize("seq_len", [3, 8, 13])
def test_rows_of_one_length_are_cut_anew_without_a_file(tmp_path, length, seq_len):
    tokens = np.arange(700)
    write_rows(tmp_path / "web", tokens, length)
    found = rows_of("concat", tmp_path / "web", seq_len=seq_len)
    written = pack(tmp_path / "p", tmp_path / "web", seq_len=seq_len, algorithm="concat")
    assert found == rows_of(tmp_path / "p", tmp_path / "web")
    assert len(found) == written.totals.rows
    dataset = ms.StreamingDataset(remote=str(tmp_path / "web"), batch_size=1)
    expected = []
    begin = 0
    for shard in dataset.domains[0].shards:
        end = begin + shard.samples * length
        expected += [list(range(at, at + seq_len)) for at in range(begin, end - seq_len + 1, seq_len)]
        begin = end
    assert found == expected
    told = ms.StreamingDataset(
        streams=[ms.Stream(remote=str(tmp_path / "web"), packing="concat", seq_len=seq_len)], batch_size=1
    )
    lost = begin - len(found) * seq_len
    assert f"0.00% padding, {lost:,} tokens in no row" in ms.Loader(told).describe()


def test_shards_shorter_than_a_row_are_told(tmp_path):
    write_rows(tmp_path / "web", np.arange(1030), 10, shard_bytes=900)
    sizes = {
        shard.samples for shard in ms.StreamingDataset(remote=str(tmp_path / "web"), batch_size=1).domains[0].shards
    }
    assert len(sizes) == 2
    with pytest.warns(UserWarning, match=r"1 of \d+ shards have fewer than \d+ tokens"):
        batches(ms.Stream(remote=str(tmp_path / "web"), packing="concat", seq_len=min(sizes) * 10 + 1))


def test_documents_in_stored_rows_end_with_a_token(tmp_path):
    """Documents lie across rows of 7; a shard cuts one of them, and both of its parts are documents."""
    documents = [np.append(document, EOS) for document in numbered(RNG.integers(1, 30, 60).tolist())]
    write_rows(tmp_path / "web", np.concatenate(documents), 7, shard_bytes=900, eos=EOS)
    made = pack(tmp_path / "p", tmp_path / "web", seq_len=32)
    rows = rows_of(tmp_path / "p", tmp_path / "web")
    found = [token for row in rows for token in row]
    stored = np.concatenate(documents)[: sum(map(len, documents)) // 7 * 7].tolist()
    assert sorted(found) == sorted(stored)
    assert made.settings.eos_id == EOS
    shards = len(made.table.shards)
    assert shards > 3
    assert 0 < made.totals.shared <= shards
    ends, unended = stored.count(EOS), int(stored[-1] != EOS)
    assert made.totals.documents == ends + unended + (made.totals.shared - unended)
    text = [",".join(map(str, row)) for row in rows]
    whole = [",".join(map(str, document.tolist())) for document in documents[:5]]
    assert all(any(document in row for row in text) for document in whole)


def test_a_selection_of_stored_rows_cuts_documents(tmp_path):
    documents = [np.append(document, EOS) for document in numbered([10] * 40)]
    tokens = np.concatenate(documents)
    write_rows(tmp_path / "web", tokens, 5, shard_bytes=1200, eos=EOS)
    kept = [number for number in range(len(tokens) // 5) if number % 4 != 1]
    keep(tmp_path / "sel", tmp_path / "web", kept)
    made = pack(tmp_path / "p", tmp_path / "web", seq_len=16, selection=tmp_path / "sel")
    found = [token for row in rows_of(tmp_path / "p", tmp_path / "web") for token in row]
    assert sorted(found) == sorted(tokens.reshape(-1, 5)[kept].reshape(-1).tolist())
    assert made.totals.shared > 20


# --- at every place of a run ----------------------------------------------------------------------------------------


def run(web: Path, packed: Path, *, world: int, workers: int = 0, **options: Any) -> list[Any]:
    given = {"batch_size": 12 // world, "shuffle": True, "drop_last": True, "num_canonical_nodes": 1, **options}
    streams = [stream(web, packed), ms.Stream(remote=str(web.parent / "plain"), name="plain", proportion=None)]
    return [
        ms.Loader(ms.StreamingDataset(streams=streams, rank=rank, world_size=world, **given)) for rank in range(world)
    ]


@pytest.fixture(scope="module")
def plain(web: Path) -> Path:
    """Stored rows of the packed rows' length and columns, to be mixed with them."""
    kinds = {"tokens": "ndarray:uint16:32", "loss_mask": "ndarray:uint8:32"}
    with ms.MDSWriter(columns=kinds, out=str(web.parent / "plain"), size_limit=800) as writer:
        for number in range(60):
            writer.write({"tokens": np.full(32, number, np.uint16), "loss_mask": np.ones(32, np.uint8)})
    return web.parent / "plain"


def tokens(loaders: list[Any], steps: int) -> list[list[list[int]]]:
    iterators = [iter(loader) for loader in loaders]
    return [joined([next(each)["tokens"].tolist() for each in iterators]) for _ in range(steps)]


def test_a_run_goes_on_with_other_ranks(web, packed, plain):
    expected = tokens(run(web, packed, world=1), 8)
    first = run(web, packed, world=2)
    assert tokens(first, 3) == expected[:3]
    state = first[0].state_dict()
    second = run(web, packed, world=3)
    for loader in second:
        loader.load_state_dict(state)
    assert tokens(second, 5) == expected[3:]


def test_workers_and_a_tight_cache_give_the_same_batches(web, packed, plain, tmp_path):
    (loader,) = run(web, packed, world=1)
    expected = [batch["tokens"].tolist() for batch in loader]
    streams = [
        ms.Stream(remote=str(web), local=str(tmp_path / "a"), packing=packed),
        ms.Stream(remote=str(plain), local=str(tmp_path / "b"), name="plain"),
    ]
    given = {"batch_size": 12, "shuffle": True, "drop_last": True, "num_canonical_nodes": 1}
    tight = ms.StreamingDataset(streams=streams, cache_limit=17_000, **given)
    with pytest.warns(UserWarning, match="fetched again"):
        assert [batch["tokens"].tolist() for batch in ms.Loader(tight)] == expected
    forked = ms.StreamingDataset(streams=[stream(web, packed), ms.Stream(remote=str(plain), name="plain")], **given)
    workers = ms.StreamingDataLoader(forked, batch_size=12, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert [batch["tokens"].tolist() for batch in workers] == expected


def test_samples_by_number_are_the_rows(web, packed):
    dataset = ms.StreamingDataset(streams=[stream(web, packed)], batch_size=1)
    rows = [batch["tokens"][0].tolist() for batch in ms.Loader(dataset)]
    assert [dataset[number]["tokens"].tolist() for number in range(len(rows))] == rows
    assert dataset[0]["tokens"].dtype == np.uint32


def test_one_place_is_read_in_two_ways(web, packed, tmp_path):
    """Packings of one place are told apart: numbers of rows of the one are no rows of the other."""
    other = pack(tmp_path / "p", web, seq_len=32, seed=9)
    streams = [stream(web, packed, name="one"), stream(web, tmp_path / "p", name="two")]
    dataset = ms.StreamingDataset(streams=streams, batch_size=2, shuffle=True)
    found = [row for batch in ms.Loader(dataset) for row in batch["tokens"].tolist()]
    per_epoch = Packing.open(packed).totals.tokens + other.totals.tokens
    assert sum(token != PAD for row in found for token in row) >= per_epoch
    assert len(dataset.domains.sources) == 2


# --- states and refusals --------------------------------------------------------------------------------------------


def test_a_state_knows_its_packing(web, packed, tmp_path):
    pack(tmp_path / "p", web, seed=4)
    loader = ms.Loader(ms.StreamingDataset(streams=[stream(web, packed)], batch_size=4, shuffle=True))
    next(iter(loader))
    state = loader.state_dict()
    assert f"packing {Packing.open(packed).id}" in json.dumps(state)
    other = ms.Loader(ms.StreamingDataset(streams=[stream(web, tmp_path / "p")], batch_size=4, shuffle=True))
    with pytest.raises(StateError, match=r"read as the packing \w+, and is now read as the packing"):
        other.load_state_dict(state)
    assert "rows of 32 tokens" in loader.describe()


def test_padding_is_told_where_no_column_says_it(web, packed, tmp_path):
    dataset = ms.StreamingDataset(streams=[stream(web, packed)], batch_size=4)
    for loader in (ms.Loader, ms.StreamingDataLoader):
        with pytest.warns(UserWarning, match=r"have padding \(\d+ times token 4000000000"):
            loader(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = next(iter(ms.Loader(dataset, documents=True)))
    padding = batch["tokens"] == PAD
    assert (batch["document_ids"][padding] == -1).all()
    assert (batch["labels"][padding] == -100).all()
    starts = np.cumsum([0, *LENGTHS])
    for row, positions in zip(batch["tokens"].tolist(), batch["position_ids"].tolist()):
        began = [token for token, position in zip(row, positions) if position == 0 and token != PAD]
        assert all(token in starts or LENGTHS[np.searchsorted(starts, token) - 1] > 32 for token in began)
    pack(tmp_path / "p", web, algorithm="concat")
    full = ms.StreamingDataset(streams=[stream(web, tmp_path / "p")], batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.Loader(full)


def test_a_selection_has_to_be_the_one_that_was_packed(web, packed, tmp_path):
    keep(tmp_path / "sel", web, range(100))
    keep(tmp_path / "other", web, range(99))
    pack(tmp_path / "p", web, selection=tmp_path / "sel")
    same = ms.StreamingDataset(streams=[stream(web, tmp_path / "p", selection=tmp_path / "sel")], batch_size=1)
    assert same.domains[0].samples == Packing.open(tmp_path / "p").totals.rows
    with pytest.raises(SelectionError, match="packs the selection"):
        ms.StreamingDataset(streams=[stream(web, tmp_path / "p", selection=tmp_path / "other")], batch_size=1)
    with pytest.raises(SelectionError, match="packs all samples"):
        ms.StreamingDataset(streams=[stream(web, packed, selection=tmp_path / "sel")], batch_size=1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seq_len": 64}, "rows of 32 tokens"),
        ({"split_by": "scores/x:4"}, "split_by"),
        ({"overlap": 1}, "overlap"),
        ({"unlisted_shards": "drop"}, "unlisted_shards"),
        ({"packing": "concat"}, "give seq_len"),
        ({"packing": "concat", "seq_len": 32}, "mixstream pack"),
        ({"packing": "concat", "seq_len": 32, "selection": "sel"}, "--selection"),
    ],
)
def test_options_that_contradict_a_packing_are_refused(web, packed, options, named):
    with pytest.raises(ConfigError, match=named):
        ms.StreamingDataset(streams=[ms.Stream(remote=str(web), **{"packing": packed, **options})], batch_size=1)


def test_the_order_of_another_package_is_refused(web, packed):
    with pytest.raises(ConfigError, match="packing="):
        ms.StreamingDataset(streams=[stream(web, packed)], batch_size=1, order="mosaic")


def test_other_shards_are_refused(tmp_path):
    web = write_documents(tmp_path / "web", DOCUMENTS[:30])
    pack(tmp_path / "p", web)
    write_documents(tmp_path / "new/web", DOCUMENTS[:40])
    with pytest.raises(SelectionError, match="pack it again"):
        ms.StreamingDataset(streams=[stream(tmp_path / "new/web", tmp_path / "p")], batch_size=1)
    # another dataset of equal names, sizes and rows, whose documents have other lengths
    pair = numbered([10, 20]), numbered([20, 10])
    for name, documents in zip("ab", pair):
        write_documents(tmp_path / name / "web", documents)
    pack(tmp_path / "q", tmp_path / "a/web")
    with pytest.raises(SelectionError, match="was rewritten"):
        batches(stream(tmp_path / "b/web", tmp_path / "q"))


def test_damaged_rows_are_refused(web, tmp_path):
    pack(tmp_path / "p", web)
    data = bytearray((tmp_path / "p/spans.npy").read_bytes())
    data[-9] ^= 1
    (tmp_path / "p/spans.npy").write_bytes(data)
    with pytest.raises(SelectionError, match="hash to"):
        batches(stream(web, tmp_path / "p"))
    manifest = tmp_path / "p/manifest.json"
    manifest.write_text(manifest.read_text().replace('"seq_len": 32', '"seq_len": 33'))
    with pytest.raises(SelectionError, match="its id is"):
        Packing.open(tmp_path / "p")


def test_a_bad_shard_is_set_aside(tmp_path):
    web = write_documents(tmp_path / "web", DOCUMENTS)
    made = pack(tmp_path / "p", web)
    bad = sorted(web.glob("*.mds"))[2]
    bad.write_bytes(bad.read_bytes()[:-5])
    dataset = ms.StreamingDataset(
        streams=[stream(web, tmp_path / "p")], batch_size=4, shuffle=True, on_bad_sample="quarantine"
    )
    with pytest.warns(UserWarning, match="set aside"):
        found = [row for batch in ms.Loader(dataset) for row in batch["tokens"].tolist()]
    lost = {number for number, count in enumerate(made.rows_S.tolist()) if number == 2 and count}
    assert lost == {2}
    assert len(found) >= made.totals.rows


def test_columns_without_a_value_for_each_token_are_named(tmp_path):
    with ms.MDSWriter(columns={"tokens": "ndarray:uint32", "id": "str"}, out=str(tmp_path / "web")) as writer:
        for number, document in enumerate(DOCUMENTS[:9]):
            writer.write({"tokens": document, "id": str(number)})
    with pytest.raises(ConfigError, match=r"id \(str\).*--columns tokens"):
        pack(tmp_path / "p", tmp_path / "web")
    made = pack(tmp_path / "p", tmp_path / "web", columns=["tokens"])
    assert made.totals.documents == 9
    assert sorted(token for row in rows_of(tmp_path / "p", tmp_path / "web") for token in row) == list(
        range(sum(LENGTHS[:9]))
    )


def test_columns_of_other_lengths_are_refused(tmp_path):
    kinds = {"tokens": "ndarray:uint32", "loss_mask": "ndarray:uint8"}
    with ms.MDSWriter(columns=kinds, out=str(tmp_path / "web")) as writer:
        writer.write({"tokens": np.arange(5, dtype=np.uint32), "loss_mask": np.ones(4, np.uint8)})
    with pytest.raises(ConfigError, match="5 values and 'loss_mask' has 4"):
        pack(tmp_path / "p", tmp_path / "web")


def test_stored_rows_without_borders_can_only_be_joined(tmp_path):
    write_rows(tmp_path / "web", np.arange(200), 10)
    with pytest.raises(ConfigError, match="--eos-id"):
        pack(tmp_path / "p", tmp_path / "web")


def test_shards_are_recognised_in_another_order(web, tmp_path):
    """An index may list its shards in another order: rows stay those of their shards."""
    shutil.copytree(web, tmp_path / "web")
    pack(tmp_path / "p", web)
    index = json.loads((tmp_path / "web/index.json").read_text())
    index["shards"].reverse()
    (tmp_path / "web/index.json").write_text(json.dumps(index))
    found, expected = rows_of(tmp_path / "p", tmp_path / "web"), rows_of(tmp_path / "p", web)
    assert found != expected
    assert sorted(found) == sorted(expected)
