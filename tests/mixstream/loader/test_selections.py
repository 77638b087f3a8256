"""Streams of which a selection keeps some rows: they are the corpus, for every face and at every place of a run."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import FIRST, SIZES, Tilt, drive, joined, loaders_of, make_dataset, row_ids, streams, write_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selections import buckets, keep, table_of
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError, SelectionError, StateError
from mixstream.mixers import Static, UniMax
from mixstream.selection import ShardTable

KEPT = [number for number in range(SIZES["web"]) if number % 7 in (1, 2, 5)]
IDS = [FIRST["web"] + number for number in KEPT]


@pytest.fixture(scope="module")
def web(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A selection of the rows `KEPT` of the domain "web"."""
    return Path(keep(tmp_path_factory.mktemp("selections") / "web", library / "web", KEPT).path)


def selected(library: Path, at: Path, names: Any = tuple(SIZES), **each: Any) -> list[ms.Stream]:
    """Return the streams of the library; of "web", the selection counts."""
    each["web"] = {"selection": at, **each.get("web", {})}
    return streams(library, names, **each)


def rows(source: Any) -> list[list[int]]:
    return [row_ids(batch) for batch in source]


# --- what is read ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_epoch_has_each_kept_row_once(library, tmp_path_factory, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=150, max_size=150).filter(any)))
    lanes, shuffle = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.booleans())
    world = data.draw(st.sampled_from([ranks for ranks in (1, 2, 4) if 12 % (ranks * lanes) == 0 or lanes == 1]))
    place = tmp_path_factory.mktemp("drawn")
    keep(place, library / "web", mask, table=TABLES.setdefault(library, table_of(library / "web")))
    options = {"world": world, "lanes": lanes, "batch": 12, "shuffle": shuffle, "drop_last": False}
    each = selected(library, place)
    with loaders_of(library, streams=each, **options) as loaders:
        steps = len(loaders[0])
        found = joined(drive(loaders, steps))
    kept = 1000 + np.flatnonzero(mask)
    expected = sorted([*kept.tolist(), *range(2000, 2050), *range(3000, 3019)])
    repeats = steps * 12 - len(expected)
    assert sorted(set(found)) == expected
    assert len(found) - len(expected) == repeats < 12


TABLES: dict[Path, ShardTable] = {}


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"num_canonical_nodes": 2}, {"shuffle_algo": "py1s"}])
def test_a_selection_gives_the_batches_of_a_dataset_that_was_rewritten_to_it(tmp_path, options):
    """Order and plan depend on the kept rows of each shard alone, whatever lies between them."""
    whole = write_tokens(tmp_path / "whole/web", range(1000, 1150), shard_bytes=500)
    table = table_of(whole)
    mask = np.arange(table.rows) % 3 != 1
    short = write_tokens(tmp_path / "short/web", [], shard_bytes=500)
    written = []
    for begin, end in zip(table.start_S[:-1].tolist(), table.start_S[1:].tolist()):
        part = tmp_path / f"part{begin}"
        ids = 1000 + np.flatnonzero(mask[begin:end]) + begin
        write_tokens(part, ids.tolist(), shard_bytes=10**6)
        written.append(part)
    _join(written, short)
    keep(tmp_path / "sel", whole, mask)
    ours = ms.StreamingDataset(
        streams=[ms.Stream(remote=str(whole), selection=tmp_path / "sel")], batch_size=4, **{"shuffle": True, **options}
    )
    theirs = ms.StreamingDataset(remote=str(short), batch_size=4, **{"shuffle": True, **options})
    batches = rows(ms.Loader(ours))
    assert batches == rows(ms.Loader(theirs))
    assert len(batches) == 25


def _join(parts: list[Path], out: Path) -> None:
    """Make one dataset of datasets of one shard each."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, part in enumerate(parts):
        (entry,) = json.loads((part / "index.json").read_text())["shards"]
        name = f"shard.{number:05}.mds"
        (out / name).write_bytes((part / entry["raw_data"]["basename"]).read_bytes())
        entry["raw_data"]["basename"] = name
        entries.append(entry)
    (out / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_every_kind_read_the_kept_rows(library, web, method, warm_spawn):
    expected = rows(ms.Loader(make_dataset(library, streams=selected(library, web))))
    workers: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": method, "timeout": 60}
    own = ms.StreamingDataLoader(make_dataset(library, streams=selected(library, web)), batch_size=8, **workers)
    assert rows(own) == expected
    if method == "fork":
        plain = DataLoader(make_dataset(library, streams=selected(library, web)), batch_size=8, **workers)
        assert [batch["tokens"][:, 0].long().tolist() for batch in plain] == expected


def test_a_copy_for_a_worker_has_no_rows(tmp_path):
    big = write_tokens(tmp_path / "web", range(30_000), shard_bytes=10**5)
    keep(tmp_path / "sel", big, np.arange(30_000) % 2 == 0)
    each = [ms.Stream(remote=str(big), selection=tmp_path / "sel")]
    with_it = ms.StreamingDataset(streams=each, batch_size=8)
    next(iter(with_it))
    without = ms.StreamingDataset(remote=str(big), batch_size=8)
    domain, plain = with_it.domains[0], without.domains[0]
    assert len(pickle.dumps(domain)) - len(pickle.dumps(plain)) < 8000 < 15_000 * 4


def test_sizes_weights_and_epochs_are_those_of_the_kept_rows(library, web):
    def chosen(streams: list[ms.Stream], **options: Any) -> list[int]:
        return [stream.choose or 0 for stream in make_dataset(library, streams=streams, **options).streams]

    assert chosen(selected(library, web)) == [len(KEPT), 50, 19]
    assert chosen(selected(library, web, web={"repeat": 2})) == [2 * len(KEPT), 50, 19]
    assert chosen(selected(library, web), epoch_size=1000)[0] == pytest.approx(
        1000 * len(KEPT) / (len(KEPT) + 69), abs=3
    )
    only = Static({"web": 1.0, "code": 0.0, "law": 0.0})
    with ms.Loader(make_dataset(library, streams=selected(library, web), mixer=only)) as loader:
        passes = Counter(joined(rows(loader)))
    assert set(passes) == set(IDS)
    assert set(passes.values()) == {2, 3}
    sized = make_dataset(library, streams=selected(library, web), mixer=UniMax(max_epochs=1, budget=100))
    assert sized.run.plan.samples_K.tolist() == [50, 19, len(KEPT)]
    capped = make_dataset(library, ["web"], streams=selected(library, web, ["web"], web={"max_epochs": 2, "repeat": 9}))
    with ms.Loader(capped) as loader, pytest.warns(UserWarning, match="max_epochs"):
        found = joined(rows(loader))
    assert set(found) <= set(IDS)
    assert len(found) == 2 * len(KEPT) // 8 * 8


def test_samples_are_numbered_as_they_are_stored(library, web):
    dataset = make_dataset(library, streams=selected(library, web))
    assert (dataset.num_samples, dataset.size) == (219, 219)
    assert len(dataset) == -(-(len(KEPT) + 69) // 8) * 8
    assert [int(dataset[i]["tokens"][0]) for i in (0, 149, 150)] == [1000, 1149, 2000]
    planned = dataset.run.walk(dataset.run.start(), None).advance()
    assert planned is not None
    (at,) = dataset.run.run_plan.addressing.locate([planned], slice(0, 8))
    first = row_ids(next(iter(ms.Loader(dataset))))
    assert [int(dataset[i]["tokens"][0]) for i in dataset.number(at).tolist()] == first


class Named(ms.StreamingDataset):
    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        return {**super().get_item(sample_id, retry), "number": sample_id}


def test_an_overridden_get_item_gets_the_numbers_of_kept_rows(library, web):
    dataset = Named(streams=selected(library, web, ["web"]), batch_size=8, shuffle=True)
    for batch in ms.Loader(dataset):
        assert (batch["number"] + 1000).tolist() == row_ids(batch)


def test_a_picture_of_the_run_says_what_is_kept(library, web):
    with ms.Loader(make_dataset(library, streams=selected(library, web))) as loader:
        (line,) = [line for line in loader.describe().splitlines() if line.startswith("kept")]
    assert line.startswith(f"kept     web: {len(KEPT)} of 150 samples, selection ")
    assert line.split()[-1] == loader.state_dict()["domains"][2]["selection"]


def test_a_directory_of_selections_has_one_for_each_stream(library, tmp_path):
    keep(tmp_path / "web", library / "web", KEPT)
    keep(tmp_path / "code", library / "code", [3, 4], domain="code")
    each = {name: {"selection": str(tmp_path)} for name in ("web", "code")}
    found = joined(rows(ms.Loader(make_dataset(library, streams=streams(library, ["web", "code"], **each)))))
    assert set(found) == {*IDS, 2003, 2004}
    with pytest.raises(SelectionError, match=r"\['code', 'web'\]"):
        make_dataset(library, streams=streams(library, ["law"], law={"selection": tmp_path}))


# --- validation -----------------------------------------------------------------------------------------------------


def test_validation_rows_are_kept_rows_of_the_selection_of_their_own_split(library, web, tmp_path):
    dataset = make_dataset(library, streams=selected(library, web, ["web"]))
    valid = write_tokens(tmp_path / "valid/web", range(1500, 1540))
    keep(tmp_path / "sel", valid, [1, 2, 30])
    each = [ms.Stream(remote=str(valid), name="web", selection=tmp_path / "sel")]
    with ms.ValidationSet.open(dataset, streams=each, rows=3) as found:
        assert sorted(joined(rows(found))) == [1501, 1502, 1530]


def test_the_validation_split_of_a_selected_stream_is_read_whole(tmp_path):
    train = write_tokens(tmp_path / "web/train", range(1000, 1060))
    write_tokens(tmp_path / "web/val", range(1500, 1540))
    keep(tmp_path / "sel", train, [5, 6, 7, 40])
    each = [ms.Stream(remote=str(tmp_path / "web"), split="train", selection=tmp_path / "sel", name="web")]
    dataset = ms.StreamingDataset(streams=each, batch_size=4)
    with ms.ValidationSet.open(dataset, rows=40) as found:
        assert sorted(joined(rows(found))) == list(range(1500, 1540))


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", [None, Tilt()])
def test_a_selected_run_goes_on_exactly_under_any_number_of_ranks(library, web, mixer):
    def run(world: int, state: Any, steps: int) -> tuple[list[list[int]], Any]:
        options = {"world": world, "lanes": 1, "streams": selected(library, web), "mixer": mixer, "lag": 4}
        with loaders_of(library, **options) as loaders:
            for loader in loaders if state else ():
                loader.load_state_dict(state)
            batches = drive(loaders, steps, report=mixer is not None)
            return batches, json.loads(json.dumps(loaders[0].state_dict()))

    whole, _ = run(1, None, 30)
    begun, state = run(2, None, 11)
    rest, _ = run(4, state, 19)
    assert begun + rest == whole


def test_only_selected_domains_have_a_selection_in_the_state(library, web):
    state = make_dataset(library, streams=selected(library, web)).state_dict()
    assert {domain["name"]: len(domain.get("selection", "")) for domain in state["domains"]} == {
        "code": 0, "law": 0, "web": 32,
    }  # fmt: skip
    assert all("selection" not in domain for domain in make_dataset(library).state_dict()["domains"])


def states(library: Path, web: Path, other: Path) -> dict[str, Any]:
    """Return a way to open the library, by what counts of "web"."""
    return {
        "all": lambda: make_dataset(library, streams=streams(library), epoch_size=80),
        "kept": lambda: make_dataset(library, streams=selected(library, web), epoch_size=80),
        "other": lambda: make_dataset(library, streams=selected(library, other), epoch_size=80),
    }


@pytest.mark.parametrize(("was", "now"), [("all", "kept"), ("kept", "all"), ("kept", "other")])
def test_another_selection_is_refused_by_name(library, web, tmp_path, was, now):
    other = keep(tmp_path / "other", library / "web", [*KEPT[:-1], 147])
    opened = states(library, web, Path(other.path))
    with ms.Loader(opened[was]()) as loader:
        drive([loader], 3)
        state = loader.state_dict()
    here = opened[now]()
    with pytest.raises(StateError, match=r"domain 'web' was read") as caught:
        here.load_state_dict(state)
    ids = {d.kept.id for d in (*here.domains, *opened[was]().domains) if d.kept is not None}
    assert all(each in str(caught.value) for each in ids)
    with ms.Loader(here) as loader:
        with pytest.warns(UserWarning, match=r"begin anew(?s:.*)domain 'web' was read"):
            loader.load_state_dict(state, strict=False)
        drawn = {domain["name"]: sum(domain["drawn"]) for domain in loader.state_dict()["domains"]}
        before = {domain["name"]: sum(domain["drawn"]) for domain in state["domains"]}
    assert drawn == {**before, "web": 0}
    assert before["web"] > 0


def test_ranks_compare_their_selections(library, web, tmp_path):
    other = keep(tmp_path / "other", library / "web", [*KEPT[:-1], 147])
    facts = []
    for at in (web, Path(other.path)):
        run = make_dataset(library, streams=selected(library, at)).run
        facts.append(run.facts(run.start(), None))
    assert {key for key in facts[0] if facts[0][key] != facts[1][key]} == {"selections"}


def test_a_log_holds_the_selections_and_a_replay_on_other_rows_warns(library, web, tmp_path):
    def run(at: Path | None, **options: Any) -> list[list[int]]:
        chosen = streams(library) if at is None else selected(library, at)
        with ms.Loader(make_dataset(library, streams=chosen, **options), log=tmp_path / "log") as loader:
            return drive([loader], 12)

    learned = run(web, mixer=Static({"web": 2, "code": 1, "law": 1}))
    (header, *_) = (json.loads(line) for line in (tmp_path / "log/mixture.jsonl").read_text().splitlines())
    (kept,) = (each.kept.id for each in make_dataset(library, streams=selected(library, web)).domains if each.kept)
    assert header["selections"] == {"web": kept}
    replayed = ms.replay(tmp_path / "log")
    assert run(web, mixer=replayed) == learned
    other = keep(tmp_path / "other", library / "web", [*KEPT[:-1], 147])
    with pytest.warns(UserWarning, match=f"'web' by the selection {kept}, and this run reads it whole") as said:
        make_dataset(library, mixer=replayed)
    assert len(said) == 1
    with pytest.warns(UserWarning, match=f"'web' by the selection {kept}, and this run reads it by the selection"):
        make_dataset(library, streams=selected(library, Path(other.path)), mixer=replayed)


def test_the_log_of_a_run_without_selections_names_none(library, tmp_path):
    with ms.Loader(make_dataset(library), log=tmp_path) as loader:
        drive([loader], 1)
    assert b"selections" not in (tmp_path / "mixture.jsonl").read_bytes()
    assert ms.feedback.read_log(tmp_path).header.selections == {}


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_selection_that_keeps_nothing_is_refused(library, tmp_path):
    keep(tmp_path / "none", library / "web", np.zeros(150, dtype=bool))
    with pytest.raises(ConfigError, match=r"'web': .* keeps none of its 150 samples; leave the stream out"):
        make_dataset(library, streams=selected(library, tmp_path / "none"))


def test_a_selection_of_another_dataset_is_refused_by_name(library, web):
    for options in ({}, {"on_selection_mismatch": "drop", "unlisted_shards": "keep"}):
        with pytest.raises(SelectionError, match=r"for the domain 'web' \(150 rows.* stream 'law' is .*law \(19 rows"):
            make_dataset(library, streams=streams(library, ["law"], law={"selection": web, **options}))
    renamed = [ms.Stream(remote=str(library / "web"), name="text", selection=web)]
    assert len(make_dataset(library, streams=renamed)) == -(-len(KEPT) // 8) * 8


def test_buckets_are_no_plain_selection(library, tmp_path):
    buckets(tmp_path / "two", library / "web", np.arange(150) % 2, ["even", "odd"])
    with pytest.raises(ConfigError, match=r"\['even', 'odd'\].*split_by="):
        make_dataset(library, streams=selected(library, tmp_path / "two"))


@pytest.mark.parametrize("option", ["on_selection_mismatch", "unlisted_shards"])
def test_unknown_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"{option}='skip' is not known; choose one of error, drop, keep"):
        ms.Stream(remote="x", **{option: "skip"})  # type: ignore[arg-type] - what is tested


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A dataset of 60 rows, about a dozen to a shard, with a selection of every other row beside it."""
    write_tokens(tmp_path / "web", range(1000, 1060))
    keep(tmp_path / "sel", tmp_path / "web", np.arange(60) % 2 == 0)
    return tmp_path


def reads(place: Path, **options: Any) -> list[int]:
    each = [ms.Stream(remote=str(place / "web"), selection=place / "sel", **options)]
    return sorted(joined(rows(ms.Loader(ms.StreamingDataset(streams=each, batch_size=1)))))


def rewrite(place: Path, change: Any) -> None:
    index = place / "web/index.json"
    document = json.loads(index.read_text())
    change(document["shards"])
    index.write_text(json.dumps(document))


def test_a_shard_that_was_removed_follows_the_option(place):
    rewrite(place, lambda shards: shards.pop(1))
    with pytest.raises(SelectionError, match=r"lacks 1 shard.*shard.00001.mds.*on_selection_mismatch.*select rebase"):
        reads(place)
    with pytest.warns(UserWarning, match=r"1 shards were removed, first 'shard.00001.mds'; .*mismatch='drop'"):
        left = reads(place, on_selection_mismatch="drop")
    with pytest.warns(UserWarning, match="mismatch='keep_all'"):
        assert left == reads(place, on_selection_mismatch="keep_all")
    assert set(left) < set(range(1000, 1060, 2))


def test_a_shard_that_was_changed_follows_the_option(place):
    first, second = (shard["samples"] for shard in json.loads((place / "web/index.json").read_text())["shards"][:2])
    ids = [*range(1000, 1000 + first), *range(7000, 7007), *range(1000 + first + second, 1060)]
    write_tokens(place / "part", range(7000, 7007), shard_bytes=10**6)
    (entry,) = json.loads((place / "part/index.json").read_text())["shards"]
    (place / "web/shard.00001.mds").write_bytes((place / "part/shard.00000.mds").read_bytes())
    entry["raw_data"]["basename"] = "shard.00001.mds"
    rewrite(place, lambda shards: shards.__setitem__(1, entry))
    with pytest.raises(
        SelectionError, match=r"shard.00001.mds' \(.*the dataset has .*\(7 rows.*on_selection_mismatch.*select key"
    ):
        reads(place)
    even = [number for number in ids if number % 2 == 0 and number < 7000]
    with pytest.warns(UserWarning, match=r"1 shards were changed, first 'shard.00001.mds'; .*mismatch='drop'"):
        assert reads(place, on_selection_mismatch="drop") == even
    with pytest.warns(UserWarning, match="mismatch='keep_all'"):
        assert reads(place, on_selection_mismatch="keep_all") == sorted([*even, *range(7000, 7007)])


def test_a_shard_that_was_added_follows_the_option(place):
    write_tokens(place / "part", range(7000, 7007), shard_bytes=10**6)
    (entry,) = json.loads((place / "part/index.json").read_text())["shards"]
    (place / "web/shard.00099.mds").write_bytes((place / "part/shard.00000.mds").read_bytes())
    entry["raw_data"]["basename"] = "shard.00099.mds"
    rewrite(place, lambda shards: shards.append(entry))
    with pytest.raises(SelectionError, match=r"shard.00099.mds.*unlisted_shards"):
        reads(place)
    even = list(range(1000, 1060, 2))
    with pytest.warns(UserWarning, match=r"1 shards were added, first 'shard.00099.mds'; .*shards='drop'"):
        assert reads(place, unlisted_shards="drop") == even
    with pytest.warns(UserWarning, match="shards='keep'"):
        assert reads(place, unlisted_shards="keep") == [*even, *range(7000, 7007)]


def test_options_that_change_what_is_kept_change_what_a_state_holds(place):
    def opened(**options: Any) -> ms.StreamingDataset:
        each = [ms.Stream(remote=str(place / "web"), selection=place / "sel", **options)]
        return ms.StreamingDataset(streams=each, batch_size=1, epoch_size=10)

    rewrite(place, lambda shards: shards[1].update(samples=shards[1]["samples"] - 1))
    with pytest.warns(UserWarning, match="1 shards were changed"):
        dropped, kept = opened(on_selection_mismatch="drop"), opened(on_selection_mismatch="keep_all")
    with pytest.raises(StateError, match="was read by the selection"):
        kept.load_state_dict(dropped.state_dict())


@pytest.mark.parametrize("policy", ["raise", "refetch", "quarantine"])
def test_a_shard_of_another_header_is_refused_when_it_is_read(tmp_path, policy):
    """The index cannot tell: name, rows and size are the same, and the rows have other lengths."""
    columns, texts = {"text": "str"}, [["aa", "bbbb"], ["c" * 9, "d"]]
    for name, lists in (("web", texts), ("new", [texts[0], ["c" * 8, "dd"]])):
        for number, each in enumerate(lists):
            with ms.MDSWriter(columns=columns, out=str(tmp_path / name / str(number))) as writer:
                for text in each:
                    writer.write({"text": text})
        _join([tmp_path / name / str(number) for number in range(2)], tmp_path / name)
    keep(tmp_path / "sel", tmp_path / "web", [0, 1, 2])
    (tmp_path / "web/shard.00001.mds").write_bytes((tmp_path / "new/shard.00001.mds").read_bytes())
    each = [ms.Stream(remote=str(tmp_path / "web"), selection=tmp_path / "sel")]
    dataset = ms.StreamingDataset(streams=each, batch_size=1, on_bad_sample=policy)
    with ms.Loader(dataset) as loader, pytest.raises(SelectionError, match=r"shard.00001.mds was rewritten") as caught:
        list(loader)
    assert loader.step == 2
    assert any("domain 'web', shard 1 of 2" in note for note in caught.value.__notes__)
    assert not dataset.run.quarantine.entries


def test_rows_that_were_damaged_are_refused_when_their_shard_is_read(place):
    path = place / "sel/rows.npy"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    with pytest.raises(SelectionError, match=r"sel: the kept rows of shard \d have the hash"):
        reads(place)


# --- bad samples ----------------------------------------------------------------------------------------------------


def test_kept_rows_take_the_place_of_bad_ones(tmp_path):
    root = write_tokens(tmp_path / "web", range(1000, 1060))
    kept = [number for number in range(60) if number % 3]
    keep(tmp_path / "sel", root, kept)
    (root / "shard.00002.mds").write_bytes(b"no shard")
    each = [ms.Stream(remote=str(root), selection=tmp_path / "sel")]
    dataset = ms.StreamingDataset(streams=each, batch_size=4, shuffle=True, on_bad_sample="quarantine")
    with ms.Loader(dataset) as loader, pytest.warns(UserWarning, match="cannot be read and is set aside"):
        found = joined(rows(loader))
    assert {number - 1000 for number in found} < set(kept)
    assert len(found) == len(kept)
    assert loader.state_dict()["quarantined"] == [{"domain": "web", "shard": 2, "row": None}]
