"""`mixstream select top`: budgets, sides, several domains, ties, controls, and what is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mixstream.selection import Selection, provenance, write_selection

SCORES = np.array([0.5, 0.9, 0.1, 0.9, 0.7, 0.3], dtype=np.float32)


@pytest.fixture
def web(write_scores):
    return write_scores(
        "scores", {"score": SCORES, "n_tokens": np.array([10, 20, 30, 40, 50, 60], dtype=np.uint32)}, samples=[2, 4]
    )


@pytest.fixture
def two(write_scores):
    """Domains whose scores interleave, with ties across them."""
    write_scores("both/web", {"score": np.array([3.0, 1.0, 2.0, 2.0])}, domain="web")
    write_scores("both/code", {"score": np.array([2.0, 5.0, 0.0])}, domain="code")
    return "both"


def ordinals(path: Path) -> list[int]:
    selection = Selection.open(path)
    selection.verify()
    return selection.ordinals().tolist()


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (["--fraction", "0.5"], [1, 3, 4]),
        (["--rows", "1"], [1]),  # of two equal scores the first
        (["--tokens", "61"], [1, 3, 4]),
        (["--tokens", "60"], [1, 3]),
        (["--fraction", "0.1", "--by", "tokens"], [1, 3]),
        (["--rows", "2", "--side", "low"], [2, 5]),
    ],
)
def test_a_budget_keeps_the_best_rows(select, web, tmp_path, budget, expected) -> None:
    status, document = select("top", web, *budget, "--out", tmp_path / "out")
    assert status == 0
    assert ordinals(tmp_path / "out") == expected
    (domain,) = document["domains"]
    assert domain["kept_rows"] == len(expected)
    assert domain["tokens"] == 210
    assert domain["path"] == str(tmp_path / "out")


def test_what_was_done_is_written_down(select, web, tmp_path) -> None:
    select("top", web, "--rows", "3", "--out", tmp_path / "out")
    found = Selection.open(tmp_path / "out")
    assert found.rule["column"] == "score"
    assert found.rule["threshold"] == pytest.approx(0.7)
    assert found.made["scores"] == str(web)
    assert "scores" in found.parents
    assert found.tokens is not None
    assert (found.tokens.before, found.tokens.after) == (210, 110)


def test_rows_without_a_score_are_never_kept(select, write_scores, tmp_path) -> None:
    path = write_scores("gaps", {"score": np.array([9.0, 1.0, 2.0])}, flags=[4, 1, 1])
    select("top", path, "--rows", "2", "--out", tmp_path / "out")
    assert ordinals(tmp_path / "out") == [1, 2]


def test_over_all_domains_there_is_one_threshold(select, two, tmp_path) -> None:
    status, document = select("top", tmp_path / two, "--rows", "4", "--overall", "--out", tmp_path / "out")
    assert status == 0
    assert ordinals(tmp_path / "out" / "code") == [0, 1]  # ties: `code` comes before `web`
    assert ordinals(tmp_path / "out" / "web") == [0, 2]
    assert [each["kept_rows"] for each in document["domains"]] == [2, 2]


def test_each_domain_may_have_its_own_budget(select, two, tmp_path) -> None:
    options = ["--per-domain", "web=.5,code=1rows"]
    select("top", tmp_path / two, *options, "--out", tmp_path / "out")
    assert ordinals(tmp_path / "out" / "web") == [0, 2]
    assert ordinals(tmp_path / "out" / "code") == [1]
    select("top", tmp_path / two, "--rows", "1", "--each", "--out", tmp_path / "each")
    assert ordinals(tmp_path / "each" / "web") == [0]


def test_controls_are_written_beside_the_selection(select, web, tmp_path) -> None:
    status, document = select("top", web, "--rows", "2", "--control", "random,inverse", "--out", tmp_path / "out")
    assert status == 0
    assert ordinals(tmp_path / "out") == [1, 3]
    assert ordinals(tmp_path / "out-inverse") == [2, 5]
    assert len(ordinals(tmp_path / "out-random")) == 2
    assert [each["path"] for each in document["domains"]] == [str(tmp_path / "out")]
    assert [each["rule"]["control"] for each in document["controls"]] == ["random", "inverse"]
    for name, control in (("out", None), ("out-random", "random"), ("out-inverse", "inverse")):
        assert Selection.open(tmp_path / name).rule.get("control") == control


def test_controls_of_several_domains(select, two, tmp_path) -> None:
    options = ["--rows", "3", "--overall", "--control", "inverse", "--control", "random"]
    assert select("top", tmp_path / two, *options, "--out", tmp_path / "out")[0] == 0
    assert ordinals(tmp_path / "out-inverse" / "web") == [1]
    assert ordinals(tmp_path / "out-inverse" / "code") == [0, 2]
    assert sum(len(ordinals(tmp_path / "out-random" / name)) for name in ("web", "code")) == 3


def test_a_control_that_is_there_already_stops_all(select, web, tmp_path) -> None:
    select("top", web, "--rows", "1", "--out", tmp_path / "out-random")
    status, document = select("top", web, "--rows", "2", "--control", "random", "--out", tmp_path / "out")
    assert status == 2
    assert f"{tmp_path / 'out-random'} exists already" in document["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_random_control_has_the_size_and_its_seed(select, web, tmp_path) -> None:
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        select("top", web, "--rows", "3", "--control", "random", "--seed", seed, "--out", tmp_path / name)
    assert ordinals(tmp_path / "a-random") == ordinals(tmp_path / "b-random")
    assert ordinals(tmp_path / "a-random") != ordinals(tmp_path / "c-random")
    assert len(ordinals(tmp_path / "c-random")) == 3
    assert Selection.open(tmp_path / "c-random").rule["seed"] == 1


def test_a_random_control_by_tokens_has_as_many_tokens(select, web, tmp_path) -> None:
    select("top", web, "--tokens", "60", "--control", "random", "--out", tmp_path / "out")
    found = Selection.open(tmp_path / "out-random")
    assert found.tokens is not None
    assert 60 <= found.tokens.after < 60 + 60


def test_only_rows_within_a_selection_are_kept(select, web, tmp_path) -> None:
    from mixstream.selection import Scores

    scores = Scores.open(web)
    write_selection(
        tmp_path / "in", domain="web", table=scores.table, kept=[0, 2, 5], rule={}, parents={}, made=provenance({})
    )
    select("top", web, "--fraction", "0.5", "--within", tmp_path / "in", "--out", tmp_path / "out")
    assert ordinals(tmp_path / "out") == [0, 5]


def test_a_dry_run_writes_nothing(select, web, tmp_path) -> None:
    status, document = select("top", web, "--rows", "3", "--dry-run", "--out", tmp_path / "out")
    assert status == 0
    assert document["status"] == "dry run"
    assert document["domains"][0]["kept_rows"] == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rows", "3", "--column", "quality"], "no column 'quality'"),
        (["--rows", "3", "--column", "n_tokens"], "--side high"),
        ([], "--fraction"),
        (["--rows", "3", "--fraction", "0.1"], "one of"),
        (["--rows", "7"], "only 6"),
        (["--fraction", "1.5"], "at most 1"),
        (["--per-domain", "code=.5"], "domains are web"),
        (["--per-domain", "web"], "web=.3"),
        (["--rows", "3", "--overall", "--each"], "exclude"),
        (["--rows", "3", "--control", "chance"], "--control chance: give random or inverse"),
        (["--tokens", "3", "--tokens-column", "length"], "no column 'length'"),
        (["--rows", "3", "--within", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_use_is_named(select, web, tmp_path, options, expected) -> None:
    status, document = select("top", web, *options, "--out", tmp_path / "out")
    assert status in {1, 2}
    assert expected in document["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_several_domains_need_to_be_told_apart(select, two, tmp_path) -> None:
    status, document = select("top", tmp_path / two, "--rows", "3", "--out", tmp_path / "out")
    assert status == 2
    assert "--overall" in document["error"]["message"]


def test_an_existing_selection_is_not_replaced_unasked(select, web, tmp_path) -> None:
    assert select("top", web, "--rows", "1", "--out", tmp_path / "out")[0] == 0
    assert select("top", web, "--rows", "2", "--out", tmp_path / "out")[0] == 2
    assert ordinals(tmp_path / "out") == [1]
    assert select("top", web, "--rows", "2", "--out", tmp_path / "out", "--overwrite")[0] == 0
    assert ordinals(tmp_path / "out") == [1, 3]


def test_people_see_a_table(shown, web, tmp_path) -> None:
    text = shown("top", web, "--rows", "3", "--out", tmp_path / "out")
    assert "50.0 %" in text
    assert "kept tokens" in text


def test_memory_is_bounded_per_row(select, write_scores, tmp_path) -> None:
    rows = 2_000_000
    path = write_scores("many", {"score": np.random.default_rng(0).random(rows, dtype=np.float32)})
    tracemalloc.start()
    try:
        status, document = select("top", path, "--fraction", "0.3", "--out", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == 0
    assert document["domains"][0]["kept_rows"] == 600_000
    assert peak < 30 * rows  # bytes: 300 MB for 10**7 rows
