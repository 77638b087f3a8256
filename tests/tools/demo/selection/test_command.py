"""`mixstream demo selection` from the outside, once, with few rows; and what it says about wrong use."""

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from mixstream.selection import Selection
from mixstream_tools.cli import main
from mixstream_tools.demo.selection.command import selection

DOMAINS = ["code", "copies", "legal", "noise", "prose"]
FATES = ("duplicate", "outlier", "typical", "kept")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """One demo: its directory, and the document of `--json`."""
    out, told = tmp_path_factory.mktemp("demo") / "out", StringIO()
    with redirect_stdout(told):
        assert main(["demo", "selection", "--out", str(out), "--rows", "120", "--seed", "1", "--json"]) == 0
    return out, json.loads(told.getvalue())


def test_exactly_the_kept_rows_arrive_without_the_other_shards(finished):
    out, told = finished
    stream = told["stream"]
    assert told["exact"] is True
    assert (stream["missing"], stream["others"]) == (0, 0)
    assert stream["arrived"] == stream["kept"] + stream["repeated"]
    assert stream["kept"] == sum(Selection.open(out / "kept" / name).kept for name in DOMAINS)
    assert len(list((out / "served").glob("*/train/**/*.mds"))) == stream["read"]
    assert len(list((out / "shards").glob("*/train/**/*.mds"))) == stream["shards"]


def test_every_row_is_accounted_for(finished):
    _, told = finished
    assert sorted(told["domains"]) == DOMAINS
    kinds = [count for domain in told["domains"].values() for count in domain.values()]
    assert all(sum(count[fate] for fate in FATES) == count["rows"] for count in kinds)
    assert sum(count["rows"] for count in kinds) == told["dropped"]["rows"]
    assert sum(count["kept"] for count in kinds) == told["stream"]["kept"]
    assert told["dropped"]["planted"] == sum(
        count["rows"] for domain in told["domains"].values() for kind, count in domain.items() if kind != "text"
    )


def test_near_copies_go(finished):
    """Not all of them: a few words of 150 differ, and the embedder is small."""
    _, told = finished
    assert told["duplicates"]["recall"] > 0.8
    assert told["duplicates"]["precision"] > 0.8


def test_samples_are_of_dropped_and_of_kept_rows(finished):
    _, told = finished
    assert {"outlier", "kept"} <= {sample["fate"] for sample in told["samples"]}
    assert all(sample["text"] for sample in told["samples"])


def test_the_commands_are_those_that_made_it(finished):
    _, told = finished
    assert [line.split()[1] for line in told["commands"]] == ["convert", "embed", "prune", "prune", "prune", "prune"]


def test_the_picture_is_where_it_says(finished):
    out, told = finished
    pytest.importorskip("matplotlib")
    picture = Path(told["picture"])
    assert picture.parent == out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_people_get_a_table_and_the_verdict(finished, capsys, monkeypatch):
    out, told = finished
    monkeypatch.setattr("mixstream_tools.demo.selection.run.run_demo", lambda **_: told)
    assert selection(out=out) == 0
    text = capsys.readouterr().out
    assert re.search(r"noise +planted: characters +40", text)
    assert f"EXACT: all {told['stream']['kept']:,} kept rows arrived" in text
    assert max(map(len, text.splitlines())) <= 160


def test_a_row_too_many_is_a_failure(finished, capsys, monkeypatch):
    out, told = finished
    stream = {**told["stream"], "missing": 0, "others": 1}
    monkeypatch.setattr(
        "mixstream_tools.demo.selection.run.run_demo", lambda **_: {**told, "exact": False, "stream": stream}
    )
    assert selection(out=out) == 1
    assert "NOT EXACT: 0 kept rows did not arrive, 1 other rows did" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["--rows 5", "--eps 3", "--fraction 2", "--fraction 0.9 --outlier-cut 0.8"])
def test_wrong_values_are_refused_before_anything_is_written(tmp_path, capsys, words):
    assert main(["demo", "selection", "--out", str(tmp_path / "out"), *words.split()]) == 2
    assert words.split(" --")[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_are_frozen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["demo", "selection", "--help"]) == 0
    told = capsys.readouterr().out
    shown = set(re.findall(r"(?<![\w-])--[a-z-]+(?= )", told[told.index("Parameters") :]))
    assert shown == {"--out", "--rows", "--eps", "--fraction", "--outlier-cut", "--seed", "--json"}


def test_the_selection_knows_its_dataset_and_scores(finished, capsys):
    """So that `select sample` needs neither."""
    out, _ = finished
    assert main(["select", "sample", str(out / "kept" / "prose"), "2", "--json"]) == 0
    (domain,) = json.loads(capsys.readouterr().out)["domains"]
    assert (domain["domain"], domain["by"]) == ("prose", "proto_dist")
