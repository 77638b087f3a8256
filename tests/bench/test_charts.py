"""bench/charts.py and bench/svg.py: what was measured is what the table and the chart show, whoever wins."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

import charts  # pyright: ignore[reportMissingImports] - the path is set above
import svg  # pyright: ignore[reportMissingImports]
from svg import Bar, bars, lines  # pyright: ignore[reportMissingImports]


def contender(rates: list[float], *, first: float, package: str) -> dict[str, Any]:
    turns = {
        "rows_per_second": rates,
        "cpu": [1 / rate for rate in rates],
        "versions": {"torch": "2", package: "1.2.3"},
        "check": {"reach": 0.5},
    }
    return {
        "setting": {"int64": {"num_workers": 2}},
        "turns": {"int64": turns},
        "first": {"setting": {}, "seconds": [first]},
    }


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "machine": {"processor": "P", "python": "3", "versions": {"torch": "2"}, "load": 0.1},
        "load_after": 0.2,
        "corpus": {"domains": 8, "rows": 100, "seq": 10, "batch": 4},
        "cores": [0, 1],
        "contenders": {
            "loader": contender([100.0, 200.0, 400.0], first=0.5, package="mixstream-data"),
            "grain": contender([200.0, 500.0, 800.0], first=0.1, package="grain"),
            "litdata": contender([10.0, 10.0, 10.0], first=0.2, package="litdata"),
            "webdataset": {"missing": "not installed: no such wheel"},
        },
    }


def test_ratios_are_of_the_same_turn(document: dict[str, Any]) -> None:
    assert charts.ratios(document["contenders"], "int64", "rows_per_second")["grain"] == [2.0, 2.5, 2.0]


def test_the_table_shows_a_peer_that_wins_and_one_that_is_missing(document: dict[str, Any]) -> None:
    rows = charts.peers_table(document).splitlines()
    assert rows[2].startswith(
        "| grain 1.2.3 | 2.00 (2.00 to 2.50) | 0.5 | not measured | 0.20 | 0.50 | num workers 2 |"
    )
    assert rows[3].startswith("| mixstream Loader | 1.00 (1.00 to 1.00)")
    assert rows[4].startswith("| litData 1.2.3 | 0.050 (0.025 to 0.100)")
    assert rows[5].startswith("| webdataset | not installed: no such wheel |")


def test_the_chart_is_xml_with_a_bar_for_each(document: dict[str, Any]) -> None:
    root = ET.fromstring(charts.peers_chart(document))
    assert len(root.findall("{*}rect")) == 3
    widths = [float(each.get("width", 0)) for each in root.findall("{*}rect")]
    assert widths == sorted(widths, reverse=True)


def test_text_is_escaped() -> None:
    root = ET.fromstring(bars('a < b & "c"', [Bar("<d>", 1.0, 1.0, 1.0, "1")]))
    assert root.get("aria-label") == 'a < b & "c"'


def test_lines_leave_out_what_a_logarithm_cannot_show() -> None:
    root = ET.fromstring(lines("t", "n", "ms", {"a": [(0, 1.0), (1, 1.0), (10, 10.0)], "b": [(1, 0.0)]}))
    assert len(root.findall("{*}circle")) == 2


def test_curves_are_drawn_from_what_is_there() -> None:
    curves = {"ranks": [{"ranks": 1, "start_ms": 2.0, "step_ms": 0.1}, {"ranks": 8, "start_ms": 2.5, "step_ms": 0.1}]}
    assert list(charts.scale_charts(curves)) == ["scale-ranks"]
    assert charts.scale_charts({}) == {}


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(SystemExit, match="0 places"):
        charts.fill("no marks", "peers", "table")


def test_what_the_suite_wrapped_is_read(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peers.json").write_text(json.dumps({"part": "peers", "measured": document}))
    monkeypatch.setattr(sys, "argv", ["charts.py", "--runs", str(tmp_path), "--images", str(tmp_path / "images")])
    charts.main()
    assert "grain 1.2.3" in (tmp_path / "images" / "peers.svg").read_text()


@pytest.mark.parametrize("module", [charts, svg])
def test_examples(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
