"""Streams that are split into buckets: each is a domain, and all of them read the same shards."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Child
from harness import Tilt, drive, joined, loaders_of, make_dataset, row_ids, streams, write_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selections import bucket_names, buckets, keep, score, table_of

import mixstream as ms
from mixstream.errors import CacheFullError, ConfigError, SelectionError, StateError, StoreAccessError
from mixstream.mixers import ADO
from mixstream.plan.walk import Walk
from mixstream.selection import Column, ScoresWriter, provenance

ROWS = 300


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let buckets be kept in a temporary directory of this test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 300 rows, 15 to a shard, and scores of them: "quality" rises and falls, "cluster" is row % 7."""
    place = tmp_path_factory.mktemp("scored")
    write_tokens(place / "web", range(1000, 1000 + ROWS))
    row = np.arange(ROWS)
    score(place / "scores/web", place / "web", quality=np.sin(row / 9).astype("<f4"), cluster=(row % 7).astype("<i4"))
    return place


def split(root: Path, by: str, **options: Any) -> ms.Stream:
    return ms.Stream(**{"remote": str(root / "web"), "split_by": f"{root}/scores/{by}", **options})


def of(*each: ms.Stream, **options: Any) -> ms.StreamingDataset:
    return ms.StreamingDataset(**{"streams": each, "batch_size": 10, "shuffle": True, **options})


def rows(source: Any) -> list[list[int]]:
    return [row_ids(batch) for batch in source]


def test_values_of_an_integer_column_are_domains(root):
    dataset = of(split(root, "cluster"))
    assert dataset.domain_names == [f"web/cluster={value}" for value in range(7)]
    with ms.Loader(dataset) as loader:
        for batch in loader:
            ids = np.array(row_ids(batch)) - 1000
            assert (ids % 7 == batch.domain).all()
            assert (ids % 7 == batch["domain"].numpy()).all()


def test_quantiles_have_equally_many_rows_from_the_lowest_up(root):
    dataset = of(split(root, "quality:4"))
    assert [stream.choose for stream in dataset.streams] == [75] * 4
    highest = [max(np.sin((row - 1000) / 9) for row in found) for found in _rows_of(dataset)]
    lowest = [min(np.sin((row - 1000) / 9) for row in found) for found in _rows_of(dataset)]
    assert all(high <= low for high, low in zip(highest, lowest[1:]))


def _rows_of(dataset: ms.StreamingDataset) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in dataset.domain_names]
    with ms.Loader(dataset) as loader:
        for batch in loader:
            for number, k in zip(row_ids(batch), batch.domain.tolist()):
                found[k].append(number)
    return found


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_epoch_has_each_row_of_a_bucket_once(root, tmp_path_factory, data):
    place = tmp_path_factory.mktemp("drawn")
    bucket = np.array(
        data.draw(st.lists(st.integers(-1, 4), min_size=ROWS, max_size=ROWS).filter(lambda b: max(b) >= 0))
    )
    buckets(place, root / "web", bucket, list("abcde"))
    world = data.draw(st.sampled_from([1, 2, 4]))
    lanes = data.draw(st.sampled_from([1, world]))
    given = {"world": world, "lanes": lanes, "batch": 12, "streams": [split(root, "", split_by=place)]}
    with loaders_of(root, **given) as loaders:
        found = joined(drive(loaders, len(loaders[0])))
        names = loaders[0].dataset.domain_names
    used = sorted(set(bucket.tolist()) - {-1})
    assert names == [f"web/{'abcde'[b]}" for b in used]
    expected = (1000 + np.flatnonzero(bucket >= 0)).tolist()
    assert sorted(set(found)) == expected
    assert len(found) - len(expected) < 12


def test_buckets_share_what_their_stream_weighs(root, library):
    def chosen(stream: ms.Stream, *others: ms.Stream, **options: Any) -> list[int]:
        return [each.choose or 0 for each in of(stream, *others, **options).streams]

    law = streams(library, ["law"])[0]
    assert chosen(split(root, "cluster", choose=100), law) == [15, 15, 14, 14, 14, 14, 14, 19]
    assert chosen(split(root, "quality:4", repeat=1.5), law) == [113, 113, 112, 112, 19]
    half = ms.Stream(remote=str(library / "law"), proportion=0.5)
    assert chosen(split(root, "quality:4", proportion=0.5), half, epoch_size=800) == [100] * 4 + [400]
    capped = of(split(root, "quality:3", max_epochs=2), epoch_size=10_000)
    with ms.Loader(capped) as loader, pytest.warns(UserWarning, match="'web/quality=q"):
        assert len(joined(rows(loader))) == 600


def test_a_bucket_that_is_due_a_part_of_a_row_is_read_over_epochs(root):
    """7 buckets share 10 rows: 1.43 each, in every epoch."""
    dataset = of(split(root, "cluster", choose=10))
    assert sum(stream.choose or 0 for stream in dataset.streams) == len(dataset) == 10
    with ms.Loader(dataset) as loader:
        ids = [number for _ in range(70) for batch in rows(loader) for number in batch]
    counts = np.bincount((np.array(ids) - 1000) % 7)
    assert np.abs(counts - 700 * np.array([43, 43, 43, 43, 43, 43, 42]) / 300).max() < 2


def test_buckets_of_a_selection(root, tmp_path):
    kept = np.arange(ROWS) % 3 == 0
    keep(tmp_path / "sel", root / "web", kept)
    dataset = of(split(root, "quality:5", selection=tmp_path / "sel"))
    assert [len(found) for found in _rows_of(dataset)] == [20] * 5
    assert sorted(joined(_rows_of(dataset))) == (1000 + np.flatnonzero(kept)).tolist()
    assert "kept     web: 100 of 300 samples, 5 buckets of " in ms.Loader(dataset).describe()


def test_rows_without_a_value_are_not_lost_without_a_word(root, tmp_path):
    flags = np.where(np.arange(ROWS) < 290, 1, 2).astype(np.uint8)
    score(tmp_path / "some", root / "web", flags=flags, quality=np.arange(ROWS).astype("<f4"))
    with pytest.warns(UserWarning, match="10 samples have no value of 'quality'"):
        dataset = of(split(root, "", split_by=f"{tmp_path}/some/quality:2"))
    assert [stream.choose for stream in dataset.streams] == [145, 145]


# --- where buckets are kept -----------------------------------------------------------------------------------------


def kept_files(tmp_path: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("buckets/*.npy")}


def test_buckets_are_written_once_and_again_when_they_are_damaged(root, tmp_path):
    first = of(split(root, "quality:4"))
    files = kept_files(tmp_path)
    assert len(files) == 3
    second = of(split(root, "quality:4"))
    assert kept_files(tmp_path) == files
    of(split(root, "quality:5"))
    assert len(kept_files(tmp_path)) == 6
    counts = next(Path(path) for path in files if path.endswith("counts.npy"))
    counts.write_bytes(counts.read_bytes()[:-8])
    third = of(split(root, "quality:4"))
    batches = [rows(ms.Loader(dataset)) for dataset in (first, second, third)]
    assert batches[0] == batches[1] == batches[2]


@pytest.mark.parametrize("name", ["manifest.json", "counts.npy", "hashes.npy", "rows.npy"])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-4])])
def test_buckets_of_which_a_file_was_lost_are_written_again(root, tmp_path, name, change):
    expected = rows(ms.Loader(of(split(root, "quality:4"))))
    change(next(tmp_path.rglob(f"buckets/{name}")))
    assert rows(ms.Loader(of(split(root, "quality:4")))) == expected


def test_buckets_that_are_there_need_no_writing(root, tmp_path, monkeypatch):
    """As where the temporary directory is read-only by now."""
    expected = rows(ms.Loader(of(split(root, "quality:4"))))
    monkeypatch.setattr("mixstream.storage.built_once.parent_of", _fails(OSError(errno.EROFS, "Read-only file system")))
    assert rows(ms.Loader(of(split(root, "quality:4")))) == expected
    with pytest.raises(StoreAccessError, match=r"'web' cannot be written there \(Read-only.*set TMPDIR .* split_by="):
        of(split(root, "quality:5"))


def test_a_full_temporary_directory_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setattr("mixstream.loader.opening.split", _fails(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(CacheFullError, match=rf"^{tmp_path}.*\(No space left on device\).*set TMPDIR"):
        of(split(root, "quality:4"))
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert of(split(root, "quality:4")).domain_names[0] == "web/quality=q0"


def _fails(error: OSError) -> Any:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    return fail


def test_processes_that_start_together_share_the_buckets(root, tmp_path):
    children = [Child(bucket_names, str(root / "web"), f"{root}/scores/quality:6", method="fork") for _ in range(4)]
    assert [child.result() for child in children] == [[f"web/quality=q{b}" for b in range(6)]] * 4
    assert len(kept_files(tmp_path)) == 3


def test_workers_that_are_spawned_read_buckets(root, warm_spawn):
    expected = rows(ms.Loader(of(split(root, "cluster"))))
    own = ms.StreamingDataLoader(
        of(split(root, "cluster")), batch_size=10, num_workers=2, multiprocessing_context="spawn", timeout=60
    )
    assert rows(own) == expected


# --- many buckets ---------------------------------------------------------------------------------------------------


def test_two_hundred_buckets_mix_under_a_learning_mixer_with_caps_and_resume(tmp_path):
    write_tokens(tmp_path / "web", range(3000), shard_bytes=2000)
    score(tmp_path / "scores", tmp_path / "web", cell=(np.arange(3000) * 7919 % 200).astype("<i4"))

    def loader() -> ms.Loader:
        each = [ms.Stream(remote=str(tmp_path / "web"), split_by=f"{tmp_path}/scores/cell", max_epochs=3)]
        return ms.Loader(ms.StreamingDataset(streams=each, batch_size=50, shuffle=True, mixer=ADO(), lag=4))

    with loader() as whole:
        expected = drive([whole], 40)
        assert len(whole.dataset.domain_names) == 200
        assert len(whole._domains.opened.table.data) == whole.dataset.domains.shards < 40
    with loader() as begun:
        first = drive([begun], 17)
        state = json.loads(json.dumps(begun.state_dict()))
    assert len({domain["selection"] for domain in state["domains"]}) == 200
    with loader() as again:
        again.load_state_dict(state)
        assert first + drive([again], 23) == expected


def test_other_buckets_are_refused_when_a_run_goes_on(root, tmp_path):
    score(tmp_path / "others/web", root / "web", quality=np.cos(np.arange(ROWS) / 9).astype("<f4"))
    state = of(split(root, "quality:4")).state_dict()
    for by, words in (
        (
            f"{tmp_path}/others/quality:4",
            r"'web/quality=q0' was read by .* \(so it is with 3 more buckets of stream 'web'\)",
        ),
        (
            f"{root}/scores/quality:5",
            r"'web' was split into 4 buckets \(quality=q0 to quality=q3\), and is now split into 5",
        ),
        (f"{root}/scores/cluster", r"now split into 7 buckets \(cluster=0 to cluster=6\): give it the former split_by"),
        (None, r"stream 'web' was split into 4 buckets .*, and is now read whole"),
    ):
        with pytest.raises(StateError, match=words) as caught:
            of(split(root, "", split_by=by)).load_state_dict(state)
        differing = [
            line for line in str(caught.value).splitlines() if line.startswith("  - ") and "epoch_size" not in line
        ]
        assert len(differing) == 1
    whole = of(split(root, "", split_by=None)).state_dict()
    with pytest.raises(
        StateError, match=r"'web' was read whole, and is now split into 4 buckets .*: give it no split_by"
    ):
        of(split(root, "quality:4")).load_state_dict(whole)


def test_written_buckets_of_other_names_are_refused_in_two_lines(root, tmp_path):
    for name, labels in (("a", ["even", "odd"]), ("b", ["first", "second"])):
        buckets(tmp_path / name, root / "web", np.arange(ROWS) % 2, labels)
    state = of(split(root, "", split_by=tmp_path / "a")).state_dict()
    with pytest.raises(StateError) as caught:
        of(split(root, "", split_by=tmp_path / "b")).load_state_dict(state)
    assert "domains ['web/first', 'web/second'] are not in the state" in str(caught.value)
    assert str(caught.value).count("  - ") == 2


def test_buckets_read_at_one_pace_are_at_the_same_shards(tmp_path):
    """Under natural weights, the shards in use are those of about two windows of the stream read whole."""
    write_tokens(tmp_path / "web", range(4000), shard_bytes=1000)
    score(tmp_path / "scores", tmp_path / "web", q=(np.arange(4000) * 7919 % 4001).astype("<i4"))

    def in_use(*, apart: bool = False, **options: Any) -> float:
        each = [ms.Stream(remote=str(tmp_path / "web"), **options)]
        dataset = of(*each, batch_size=40, shuffle_block_size=400)
        plan = replace(dataset.run.run_plan, family_K=None) if apart else dataset.run.run_plan
        walk, shards = Walk(plan=plan.plan, cursor=plan.plan.start()), []
        for _ in range(100):
            (at,) = plan.addressing.locate([walk.advance()], slice(0, 40))  # type: ignore[list-item]
            shards.append(set(at.shard_B.tolist()))
        assert dataset.domains.shards > 80
        return float(np.mean([len(set.union(*shards[i : i + 10])) for i in range(0, 90, 10)]))

    assert in_use() < in_use(split_by=f"{tmp_path}/scores/q:20") < 2.5 * in_use()
    assert in_use(split_by=f"{tmp_path}/scores/q:20", apart=True) > 5 * in_use()


# --- bad samples and validation -------------------------------------------------------------------------------------


def test_a_bad_shard_is_set_aside_for_all_buckets(root, tmp_path):
    place = tmp_path / "copy"
    write_tokens(place / "web", range(1000, 1000 + ROWS))
    (place / "web/shard.00003.mds").write_bytes(b"no shard")
    given = {"remote": str(place / "web"), "name": "web"}
    dataset = of(split(root, "cluster", **given), on_bad_sample="quarantine")
    with ms.Loader(dataset) as loader:
        with pytest.warns(UserWarning, match=r"shard.00003.mds of domain 'web' cannot"):
            found = rows(loader)
        state = json.loads(json.dumps(loader.state_dict()))
        assert "aside    cannot be read, others take their place: web 1 shard(s)" in loader.describe()
    assert state["quarantined"] == [{"domain": "web", "shard": 3, "row": None}]
    assert not set(joined(found)) & set(range(1045, 1060))
    again = of(split(root, "cluster", **given), on_bad_sample="quarantine")
    again.load_state_dict(state)
    assert again.run.quarantine.entries == {(3, -1)}


def test_validation_rows_of_buckets_have_to_be_named(root, tmp_path):
    dataset = of(split(root, "cluster", split=None, name="web"))
    with pytest.raises(ConfigError, match=r"'web/cluster=0' is a bucket .* are in no bucket: pass streams="):
        ms.ValidationSet.open(dataset)
    valid = write_tokens(tmp_path / "valid", range(1500, 1570))
    score(tmp_path / "valid-scores", valid, cluster=(np.arange(70) % 7).astype("<i4"))
    each = [ms.Stream(remote=str(valid), name="web", split_by=f"{tmp_path}/valid-scores/cluster")]
    with ms.ValidationSet.open(dataset, streams=each, rows=10) as found:
        assert sorted(joined(rows(found))) == list(range(1500, 1570))
        assert found.names == tuple(dataset.domain_names)


# --- replays ---------------------------------------------------------------------------------------------------------


def test_a_replay_over_other_buckets_warns_once_and_of_domains_that_the_run_has(root, tmp_path):
    with ms.Loader(of(split(root, "cluster"), mixer=Tilt(), lag=4), log=tmp_path / "log") as loader:
        learned = drive([loader], 20)
    replayed = ms.replay(tmp_path / "log")
    with ms.Loader(of(split(root, "cluster"), mixer=replayed)) as loader:
        assert drive([loader], 20, report=False) == learned
    keep(tmp_path / "sel", root / "web", np.arange(ROWS) % 3 == 0)
    with pytest.warns(UserWarning, match=r"'web/cluster=0' by the selection .* so with 6 more domains") as told:
        of(split(root, "cluster", selection=tmp_path / "sel"), mixer=replayed)
    assert len(told) == 1
    with pytest.raises(ConfigError, match=r"web/quality=q0"), ms.Loader(of(split(root, "quality:4"), mixer=replayed)):
        pass


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "kind", "words"),
    [
        ("quality", ConfigError, "quality:20"),
        ("colour:3", ConfigError, r"no column 'colour'.*cluster"),
        ("quality:0", ConfigError, "0 buckets"),
        ("quality:301", ConfigError, "too few for 301"),
    ],
)
def test_what_makes_no_buckets_is_refused(root, by, kind, words):
    with pytest.raises(kind, match=words):
        of(split(root, by))


def test_a_split_that_names_no_scores_is_refused(root):
    with pytest.raises(ConfigError, match=r"DIRECTORY/COLUMN:COUNT"):
        of(split(root, "", split_by="quality:20"))
    with pytest.raises(SelectionError, match="scores"):
        of(split(root, "", split_by=f"{root}/nothing/quality:20"))


@pytest.mark.parametrize("place", ["topics", "topics/", "below/topics"])
def test_buckets_of_other_domains_are_named(root, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    for name in ("web", "code"):
        buckets(tmp_path / place / name, root / "web", np.arange(ROWS) % 2, ["even", "odd"], domain=name)
    assert of(split(root, "", split_by=place)).domain_names == ["web/even", "web/odd"]
    with pytest.raises(ConfigError, match=r"no buckets of this domain, it has those of code, web"):
        of(split(root, "", split_by=place, name="codex"))


def test_a_split_is_shown_as_the_user_wrote_it(root):
    with ms.Loader(of(split(root, "quality:4"))) as loader:
        assert f"300 of 300 samples, 4 buckets of split_by='{root}/scores/quality:4'" in loader.describe()


def test_a_bucket_with_the_name_of_a_stream_is_refused(root, library):
    other = ms.Stream(remote=str(library / "law"), name="web/cluster=3")
    with pytest.raises(ConfigError, match=r"share the names \['web/cluster=3'\]"):
        of(split(root, "cluster"), other)


def test_written_buckets_cannot_be_selected_from(root, tmp_path):
    buckets(tmp_path / "two", root / "web", np.arange(ROWS) % 2, ["even", "odd"])
    keep(tmp_path / "sel", root / "web", [1, 2])
    with pytest.raises(ConfigError, match="leave out selection"):
        of(split(root, "", split_by=tmp_path / "two", selection=tmp_path / "sel"))


def test_a_mixer_that_learns_resumes_over_buckets_under_other_ranks(root):
    def run(world: int, state: Any, steps: int) -> tuple[list[list[int]], Any]:
        given = {"world": world, "lanes": 1, "batch": 8, "streams": [split(root, "cluster")], "mixer": Tilt(), "lag": 4}
        with loaders_of(root, **given) as loaders:
            for loader in loaders if state else ():
                loader.load_state_dict(state)
            return drive(loaders, steps), json.loads(json.dumps(loaders[0].state_dict()))

    whole, _ = run(1, None, 24)
    begun, state = run(2, None, 10)
    assert begun + run(4, state, 14)[0] == whole


def test_the_other_streams_of_a_run_are_not_changed_by_a_split(root, library):
    plain = make_dataset(library).run.run_plan.addressing.orders[0]
    beside = of(split(root, "cluster"), *streams(library, ["code"]), batch_size=8).run.run_plan.addressing.orders[0]
    draws = np.arange(100)
    assert plain.name == beside.name == "code"
    assert [a.tolist() for a in plain.locate(lane=0, draw_B=draws)] == [
        a.tolist() for a in beside.locate(lane=0, draw_B=draws)
    ]


@pytest.mark.parametrize("options", [{"unlisted_shards": "keep"}, {"on_selection_mismatch": "keep_all"}])
def test_a_shard_that_no_bucket_knows_is_not_read_by_each_of_them(tmp_path, options):
    """All rows of such a shard would count in every bucket, so they would be repeated."""
    write_tokens(tmp_path / "web", range(1000, 1060))
    buckets(tmp_path / "written", tmp_path / "web", np.arange(60) % 3, ["a", "b", "c"])
    index = tmp_path / "web/index.json"
    document = json.loads(index.read_text())
    if "unlisted_shards" in options:
        write_tokens(tmp_path / "more", range(7000, 7007), shard_bytes=10**6)
        (added,) = json.loads((tmp_path / "more/index.json").read_text())["shards"]
        (tmp_path / "web/shard.00099.mds").write_bytes((tmp_path / "more/shard.00000.mds").read_bytes())
        added["raw_data"]["basename"] = "shard.00099.mds"
        document["shards"].append(added)
    else:
        document["shards"][1]["samples"] -= 1
    index.write_text(json.dumps(document))
    stream = {"remote": str(tmp_path / "web"), "split_by": tmp_path / "written"}
    with pytest.raises(
        SelectionError, match=r"which of them its rows belong to is unknown; split again, or pass 'drop'"
    ):
        of(ms.Stream(**stream, **options))
    with pytest.warns(UserWarning, match="1 shards were (added|changed), first"):
        dropped = of(ms.Stream(**stream, **dict.fromkeys(options, "drop")), batch_size=1)
    with ms.Loader(dropped) as loader:
        ids = joined(rows(loader))
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(range(1000, 1060))


def test_buckets_of_renamed_categories_have_the_new_names(root, tmp_path):
    """Scores of equal values have one id, whatever their values are called."""

    def names(*categories: str) -> list[str]:
        table, column = table_of(root / "web"), Column(name="language", dtype="<i4")
        made = provenance({}, categories={"language": list(categories)})
        place = tmp_path / "-".join(categories)
        with ScoresWriter(place, domain="web", table=table, columns=[column], made=made) as writer:
            writer.write(0, {"language": np.arange(ROWS, dtype="<i4") % 2})
        return of(ms.Stream(remote=str(root / "web"), split_by=place / "language")).domain_names

    assert names("en", "fr") == ["web/language=en", "web/language=fr"]
    assert names("fr", "en") == ["web/language=fr", "web/language=en"]


def test_buckets_of_a_shard_that_was_rewritten_are_made_again(tmp_path):
    """Shards of equal names, sizes and rows: only their headers tell that the scores are those of other rows."""

    def written(*texts: str) -> ms.Stream:
        shutil.rmtree(tmp_path / "web", ignore_errors=True)
        with ms.MDSWriter(out=str(tmp_path / "web"), columns={"text": "str"}) as writer:
            for text in texts:
                writer.write({"text": text})
        shutil.rmtree(tmp_path / "scores", ignore_errors=True)
        score(tmp_path / "scores", tmp_path / "web", quality=np.arange(2.0))
        return ms.Stream(remote=str(tmp_path / "web"), split_by=tmp_path / "scores/quality:2")

    for texts in (("a", "long"), ("long", "a")):
        with ms.Loader(of(written(*texts), batch_size=1)) as loader:
            assert sorted(text for batch in loader for text in batch["text"]) == ["a", "long"]
