"""Scores: what was written is read, in any number of parts, and nothing that cannot be is stored."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
from artefacts import MADE, QUALITY, VECTORS, table_of, write_parts, write_scores

from mixstream.errors import ConfigError, OutputExistsError, SelectionError
from mixstream.selection import (
    Column,
    Scores,
    ScoresWriter,
    add_columns,
    discard,
    find_artefacts,
    merge_scores,
    provenance,
    scores_done,
)

TABLE = table_of(5, 0, 7, 3, 20, 4)
VALUES = np.random.default_rng(0).normal(size=TABLE.rows).astype("f4")


def writer_of(path, **kw):
    return ScoresWriter(path, **{"domain": "web", "table": TABLE, "columns": [QUALITY], "made": MADE, **kw})


def files_of(path):
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.mark.parametrize("parts", [2, 3, 17])
def test_the_files_do_not_depend_on_the_parts(tmp_path, parts):
    whole = write_scores(tmp_path / "whole", TABLE, VALUES)
    merged = write_scores(tmp_path / "merged", TABLE, VALUES, parts=parts)
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")
    assert merged.id == whole.id
    assert np.array_equal(merged.column("quality"), VALUES)
    assert merged.scored.all()
    merged.verify()


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_do_not_depend_on_the_parts_either(tmp_path, parts, size):
    scores = Scores.open(write_parts(tmp_path, TABLE, VALUES, parts=parts))
    assert scores.merged == (parts == 1)
    found = list(scores.blocks("quality", "flags", size=size, begin=2, end=33))
    assert [begin for begin, _ in found] == list(range(2, 33, size))
    assert np.array_equal(np.concatenate([block["quality"] for _, block in found]), VALUES[2:33])
    assert all(block["flags"].all() for _, block in found)
    if parts > 1:
        with pytest.raises(SelectionError, match="lies in 4 parts; merge them"):
            scores.column("quality")


def test_columns_of_any_shape_and_rows_without_values(tmp_path):
    columns = [VECTORS, QUALITY, Column(name="cluster", dtype="int32")]
    vectors = np.arange(3 * TABLE.rows).reshape(-1, 3) / 8
    flags = np.ones(TABLE.rows, int)
    flags[[1, 38]] = 2, 4
    with writer_of(tmp_path, columns=columns) as writer:
        for begin in (20, 0):  # in any order
            part = slice(begin, begin + 20 if begin == 0 else None)
            quality = np.where(flags == 1, VALUES, np.nan)[part]
            cluster = np.arange(TABLE.rows)[part]
            writer.write(begin, {"vectors": vectors[part], "quality": quality, "cluster": cluster}, flags[part])
    scores = Scores.open(tmp_path)
    assert list(scores.columns) == ["vectors", "quality", "cluster"]
    assert np.array_equal(scores.flags, flags)
    assert np.array_equal(scores.column("quality"), np.where(flags == 1, VALUES, 0))
    assert np.array_equal(scores.column("vectors"), np.where((flags == 1)[:, None], vectors, 0))
    assert scores.column("cluster")[38] == 0
    assert not scores.column("cluster").flags.writeable
    with pytest.raises(ConfigError, match=r"no column 'qualty'; it has \['vectors', 'quality', 'cluster'\]"):
        scores.column("qualty")


@pytest.mark.parametrize(
    ("column", "values", "fact"),
    [
        (QUALITY, [np.nan], "ordinal 4 is not finite"),
        (QUALITY, [np.inf], "ordinal 4 is not finite"),
        (Column(name="quality", dtype="f2"), [1e6], "not finite as <f2"),
        (Column(name="quality", dtype="u1"), [256], "reach from 256 to 256; declare a larger dtype"),
        (Column(name="quality", dtype="u1"), [-1], "reach from -1"),
        (Column(name="quality", dtype="i4"), [0.5], "the values are float64"),
        (QUALITY, [[1.0]], r"shape \(1, 1\), \(1,\) belong"),
        (QUALITY, ["a"], "the values are <U1"),
    ],
)
def test_what_a_column_cannot_hold_is_refused(tmp_path, column, values, fact):
    with pytest.raises(ConfigError, match=fact), writer_of(tmp_path, columns=[column]) as writer:
        writer.write(4, {"quality": np.array(values)})
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    "kw",
    [
        {"name": "flags"},
        {"name": "../x"},
        {"name": ""},
        {"dtype": "O"},
        {"dtype": "U3"},
        {"dtype": "x"},
        {"shape": (0,)},
    ],
)
def test_columns_that_cannot_be(kw):
    with pytest.raises(ConfigError):
        Column(**{"name": "a", "dtype": "f4", **kw})


def test_a_row_that_was_never_written_is_an_error_and_nothing_appears(tmp_path):
    writer = writer_of(tmp_path)
    writer.write(0, {"quality": VALUES[:12]})
    writer.write(13, {"quality": VALUES[13:]})
    with pytest.raises(ConfigError, match="ordinal 12 was never written"):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_an_exception_leaves_nothing(tmp_path):
    with suppress(RuntimeError), writer_of(tmp_path) as writer:
        writer.write(0, {"quality": VALUES})
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_rows_and_shards_of_other_parts_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="part 1 of 2 has the ordinals"), writer_of(tmp_path, part=(1, 2)) as writer:
        writer.write(0, {"quality": VALUES[:1]})
    with pytest.raises(ConfigError, match="this part has the shards"), writer_of(tmp_path, part=(1, 2)) as writer:
        writer.fingerprint(0, "ab")


def test_two_writers_of_one_part_exclude_each_other(tmp_path):
    with writer_of(tmp_path) as writer:
        with pytest.raises(ConfigError, match="being written by another"):
            writer_of(tmp_path)
        writer.write(0, {"quality": VALUES})
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        writer_of(tmp_path)
    with writer_of(tmp_path, overwrite=True) as writer:
        writer.write(0, {"quality": VALUES + 1})
    assert np.array_equal(Scores.open(tmp_path).column("quality"), VALUES + 1)


def test_done_compares_the_inputs_only(tmp_path):
    made = provenance({"seed": 1, "k": (1, 2), "rate": np.float64(0.5)})
    assert not scores_done(tmp_path, (0, 2), made=made)
    write_parts(tmp_path, TABLE, VALUES, parts=2, made=made)
    again = provenance({"rate": 0.5, "k": [1, 2], "seed": 1}, host="other")
    for _ in range(2):
        assert all(scores_done(tmp_path, (i, 2), made=again) for i in range(2))
        assert not scores_done(tmp_path, (0, 2), made=provenance({"seed": 2}))
        merge_scores(tmp_path)  # a merged artefact has all parts
    assert not (tmp_path / "parts").exists()


def test_a_part_whose_file_is_gone_is_not_done(tmp_path):
    write_parts(tmp_path, TABLE, VALUES, parts=2)
    (tmp_path / "parts/00001-of-00002/quality.npy").unlink()
    assert scores_done(tmp_path, (0, 2), made=MADE)
    assert not scores_done(tmp_path, (1, 2), made=MADE)


def test_missing_parts_are_named(tmp_path):
    write_parts(tmp_path, TABLE, VALUES, parts=5)
    for number in (1, 3):
        shutil.rmtree(tmp_path / f"parts/0000{number}-of-00005")
    with pytest.raises(SelectionError, match=r"the parts 1/5, 3/5 are missing.*--part I/5"):
        merge_scores(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    write_parts(tmp_path, TABLE, VALUES, parts=2)
    write_parts(tmp_path, TABLE, VALUES, parts=3)
    with pytest.raises(SelectionError, match="parts of 2 and of 3"):
        merge_scores(tmp_path)
    for i in range(3):
        shutil.rmtree(tmp_path / f"parts/0000{i}-of-00003")
    kw = {"made": {"inputs": {"seed": 7}}, "overwrite": True}
    with writer_of(tmp_path, part=(1, 2), **kw) as writer:
        writer.write(writer.begin, {"quality": VALUES[writer.begin :]})
    with pytest.raises(SelectionError, match=r"other inputs than part 0 \(seed: 7 and 0\)"):
        Scores.open(tmp_path)
    with writer_of(tmp_path, part=(1, 2), domain="code", overwrite=True) as writer:
        writer.write(writer.begin, {"quality": VALUES[writer.begin :]})
    with pytest.raises(SelectionError, match="its domain differs"):
        merge_scores(tmp_path)


def test_a_part_that_is_there_twice_or_lies_elsewhere_is_refused(tmp_path):
    write_parts(tmp_path, TABLE, VALUES, parts=2)
    shutil.copytree(tmp_path / "parts/00000-of-00002", tmp_path / "parts/000000-of-000002")
    with pytest.raises(SelectionError, match="part 0 of 2 is there twice"):
        merge_scores(tmp_path)
    shutil.move(tmp_path / "parts/000000-of-000002", tmp_path / "parts/00003-of-00004")
    with pytest.raises(SelectionError, match="it says part 0 of 2"):
        merge_scores(tmp_path)


def test_a_damaged_part_is_found_when_it_is_merged(tmp_path):
    write_parts(tmp_path, TABLE, VALUES, parts=2)
    file = tmp_path / "parts/00001-of-00002/quality.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(SelectionError, match=r"00001-of-00002/quality.npy: xxh3_128 is"):
        merge_scores(tmp_path)
    assert Scores.open(tmp_path).merged is False


def test_a_part_that_is_written_again_replaces_what_was_merged(tmp_path):
    write_scores(tmp_path, TABLE, VALUES, parts=2)
    with pytest.raises(OutputExistsError, match="merged scores"):
        writer_of(tmp_path, part=(0, 2))
    write_parts(tmp_path, TABLE, VALUES + 1, parts=2, overwrite=True)
    assert np.array_equal(merge_scores(tmp_path).column("quality"), VALUES + 1)


def test_fingerprints_of_all_parts_meet(tmp_path):
    for i in range(3):
        with writer_of(tmp_path, part=(i, 3)) as writer:
            writer.write(writer.begin, {"quality": VALUES[writer.begin : writer.end]})
            for shard in range(writer.first_shard, writer.end_shard):
                writer.fingerprint(shard, f"{shard:032x}")
    scores = merge_scores(tmp_path)
    assert [shard.fingerprint for shard in scores.table.shards] == [f"{shard:032x}" for shard in range(6)]
    assert scores.id == write_scores(tmp_path / "without", TABLE, VALUES).id


def test_columns_are_added_and_never_change(tmp_path):
    before = write_scores(tmp_path, TABLE, VALUES)
    mapped = before.column("quality")
    added = add_columns(
        tmp_path, {"rank": np.argsort(VALUES)}, provenance({"of": before.id}), higher_is_better={"rank": True}
    )
    assert list(added.columns) == ["quality", "rank"]
    assert added.columns["rank"].higher_is_better
    assert added.made["inputs"] == MADE["inputs"]
    assert added.made["added"]["rank"]["inputs"] == {"of": before.id}
    assert added.id != before.id
    assert np.array_equal(mapped, VALUES)
    added.verify()
    with pytest.raises(ConfigError, match="has a column 'rank' already"):
        add_columns(tmp_path, {"rank": VALUES}, MADE)
    with pytest.raises(ConfigError, match="has 2 rows, the scores have 39"):
        add_columns(tmp_path, {"short": VALUES[:2]}, MADE)
    assert list(Scores.open(tmp_path).columns) == ["quality", "rank"]


def test_artefacts_are_found_by_domain(tmp_path):
    write_parts(tmp_path / "x/web", TABLE, VALUES, parts=2)
    with writer_of(tmp_path / "x/other", domain="code") as writer:
        writer.write(0, {"quality": VALUES})
    assert find_artefacts(tmp_path / "x", "scores") == {"code": tmp_path / "x/other", "web": tmp_path / "x/web"}
    assert find_artefacts(tmp_path / "x/other", "scores") == {"code": tmp_path / "x/other"}
    assert Scores.open(tmp_path / "x", domain="web").domain == "web"
    assert Scores.open(tmp_path / "x/other", domain="web").domain == "code"
    with pytest.raises(SelectionError, match=r"artefacts of the domains \['other'\]"):
        Scores.open(tmp_path / "x")
    with pytest.raises(SelectionError, match="no selection in"):
        find_artefacts(tmp_path / "x", "selection")
    write_parts(tmp_path / "x/again", TABLE, VALUES)
    with pytest.raises(SelectionError, match=r"x/again and .*x/web both describe the domain 'web'"):
        find_artefacts(tmp_path / "x", "scores")
    discard(tmp_path / "x/other")
    assert not (tmp_path / "x/other").exists()


def test_what_made_it_must_be_json(tmp_path):
    with pytest.raises(ConfigError, match="made cannot be written as JSON"):
        provenance({"seed": object()})
    with pytest.raises(ConfigError, match="made has no 'inputs'"):
        writer_of(tmp_path, made={"seed": 0})
    with pytest.raises(ConfigError, match="JSON"):
        provenance({"rate": float("nan")})


def test_provenance_names_no_credentials(monkeypatch):
    monkeypatch.setattr("sys.argv", ["mixstream", "s3://key:secret@bucket/web"])
    assert "secret" not in json.dumps(provenance({}))


def test_an_empty_domain_has_scores(tmp_path):
    scores = write_scores(tmp_path, table_of(), np.empty(0), parts=2)
    assert scores.rows == 0
    assert scores.column("quality").shape == (0,)
