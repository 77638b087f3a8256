"""Artefacts at a URL come through the disk cache: fetched once, verified, shared by processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from artefacts import entries, ordinals_at, select, table_of, write_parts
from children import in_child
from fault_proxy import FaultProxy
from servers import S3

from mixstream.errors import SelectionError, StoreError
from mixstream.selection import Scores, Selection

SAMPLES = [50, 70, 30]
TABLE = table_of(*SAMPLES)
KEPT = np.flatnonzero(np.arange(TABLE.rows) % 3 == 0)


@pytest.fixture(autouse=True)
def _own_temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()


@pytest.fixture
def place(s3: S3, tmp_path: Path) -> S3:
    """Return a selection and scores of the domain web, uploaded."""
    select(tmp_path / "selection", TABLE, KEPT)
    write_parts(tmp_path / "scores", TABLE, np.arange(150.0))
    s3.below("selection/web").upload(tmp_path / "selection")
    s3.below("scores").upload(tmp_path / "scores")
    return s3


def test_a_selection_of_a_store_is_the_same(place, tmp_path):
    there = Selection.open(f"{place.url}/selection", domain="web")
    here = Selection.open(tmp_path / "selection")
    assert there.id == here.id
    assert there.path == f"{place.url}/selection/web"
    there.verify()
    views = [selection.view(entries(SAMPLES)) for selection in (there, here)]
    rows = [
        view.rows(np.zeros(17, int), np.arange(17)).tolist() for view in [*views, pickle.loads(pickle.dumps(views[0]))]
    ]
    assert rows == [KEPT[:17].tolist()] * 3
    scores = Scores.open(f"{place.url}/scores")
    assert scores.column("quality")[149] == 149
    scores.verify()


def test_processes_share_what_was_fetched(place, tmp_path):
    local = str(tmp_path / "cache")
    Selection.open(f"{place.url}/selection/web", local=local).verify()
    assert {"rows.npy", "counts.npy", "hashes.npy"} <= {path.name for path in Path(local).iterdir()}
    for name in ("rows.npy", "counts.npy", "hashes.npy"):
        place.remove(f"selection/web/{name}")
    assert Selection.open(f"{place.url}/selection/web", local=local).ordinals().tolist() == KEPT.tolist()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_read_it_too(place, method, warm_spawn):
    url = f"{place.url}/selection"
    assert ordinals_at(url) == KEPT.tolist()
    assert in_child(ordinals_at, url, method=method) == KEPT.tolist()


def test_while_the_store_is_away_what_was_kept_is_read(place, proxy: FaultProxy, monkeypatch):
    url = f"{place.url}/selection/web"
    monkeypatch.setenv("S3_ENDPOINT_URL", proxy.endpoint)
    assert Selection.open(url).ordinals().tolist() == KEPT.tolist()
    proxy.refuse()
    with pytest.warns(RuntimeWarning, match=r"manifest.json could not be read"):
        assert Selection.open(url).ordinals().tolist() == KEPT.tolist()


def test_damaged_files_of_a_store_are_refused_by_name(place):
    data = bytearray(place.get("selection/web/rows.npy"))
    data[-1] ^= 1
    place.put("selection/web/rows.npy", bytes(data))
    selection = Selection.open(f"{place.url}/selection/web")
    with pytest.raises(SelectionError, match=r"selection/web/rows.npy: it is missing, or not what manifest.json says"):
        selection.ordinals()
    place.remove("selection/web/rows.npy")
    with pytest.raises(SelectionError, match=r"selection/web/rows.npy: it is missing"):
        selection.ordinals()


def test_a_store_without_one(place):
    with pytest.raises(
        SelectionError, match=r"no selection: looked for s3://.*/nothing/manifest.json or s3://.*/web/man"
    ):
        Selection.open(f"{place.url}/nothing", domain="web")
    with pytest.raises(SelectionError, match=r"looked for s3://no-such-bucket-here/selection/manifest.json"):
        Selection.open("s3://no-such-bucket-here/selection")


def test_a_store_that_is_away_is_no_damage(place, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"manifest.json"):
        Selection.open(f"{place.url}/selection/web")


def test_a_file_url_is_read_in_place(tmp_path):
    select(tmp_path / "selection", TABLE, KEPT)
    assert Selection.open(f"file://{tmp_path}/selection").ordinals().tolist() == KEPT.tolist()
    assert not list((tmp_path / "temp").iterdir())


def test_a_selection_that_was_replaced_in_its_store_is_fetched_anew(place, tmp_path):
    """Its files have the names and sizes of the former ones, which are in the cache."""
    url = f"{place.url}/selection/web"
    former = Selection.open(url)
    assert former.ordinals().tolist() == KEPT.tolist()
    select(tmp_path / "other", TABLE, KEPT + 1)
    place.below("selection/web").upload(tmp_path / "other")
    now = Selection.open(url)
    assert now.id != former.id
    assert now.ordinals().tolist() == (KEPT + 1).tolist()
    now.verify()
    scores = Scores.open(f"{place.url}/scores").column("quality")
    assert scores[5] == 5.0
    write_parts(tmp_path / "others", TABLE, np.arange(150.0) + 1)
    place.below("scores").upload(tmp_path / "others")
    assert Scores.open(f"{place.url}/scores").column("quality")[5] == 6.0
    assert scores[5] == 5.0  # what is mapped stays
