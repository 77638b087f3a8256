"""bench/suite.py, and the rule that it serves: no number in README or docs without a script that prints it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

import suite  # pyright: ignore[reportMissingImports] - the path is set above

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPT = re.compile(r"\b(?:bench|examples)/[\w/]+(?:\.py|\.sh)\b|\bbench/peers\b")


def sections(page: str) -> list[str]:
    """Return the text under each heading of the second level."""
    return re.split(r"^## ", page, flags=re.MULTILINE)[1:]


def numbers_without_script(section: str) -> bool:
    """Whether a section has a table with numbers and names nothing that prints them."""
    cells = "".join(line for line in section.splitlines() if line.startswith("|"))
    return bool(re.search(r"\d", cells)) and not SCRIPT.search(section) and "mixstream demo" not in section


def test_the_search_finds_a_table_without_script() -> None:
    assert numbers_without_script("Speed\n\n| a | 1.5 |\n")
    assert not numbers_without_script("Speed, by `bench/loader.py`\n\n| a | 1.5 |\n")
    assert not numbers_without_script("Words\n\n| a | b |\n")


def test_scripts_that_pages_name_exist() -> None:
    named = {(page.name, script) for page in PAGES for script in SCRIPT.findall(page.read_text())}
    assert len(named) > 20
    assert not [(page, script) for page, script in named if not (ROOT / script).exists()]


def test_every_table_of_numbers_names_its_script() -> None:
    found = sections((ROOT / "docs" / "benchmarks.md").read_text())
    assert len(found) > 5
    assert not [section.splitlines()[0] for section in found if numbers_without_script(section)]


def test_every_script_of_the_benchmarks_is_a_part() -> None:
    commands = " ".join(part.run for part in suite.PARTS.values())
    quoted = set(SCRIPT.findall((ROOT / "docs" / "benchmarks.md").read_text()))
    by_another = ("bench/convert.py", "bench/charts.py", "bench/suite.py", "bench/peers/")
    assert not [script for script in quoted if script not in commands and not script.startswith(by_another)]


def test_pictures_that_pages_show_exist() -> None:
    for page in PAGES:
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / picture).exists(), f"{page.name} shows {picture}"


def test_a_part_leaves_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = suite.Part(
        "echo spoken; echo '{\"rows\": 1}' > {json}".replace('{"rows"', '{{"rows"').replace("1}", "1}}"), ""
    )
    monkeypatch.setattr(suite, "PARTS", {"good": good, "bad": suite.Part("exit 3", "")})
    assert suite.main(["--runs", str(tmp_path)]) == 1
    document = json.loads((tmp_path / "good.json").read_text())
    assert document["printed"] == ["spoken"]
    assert document["measured"] == {"rows": 1}
    assert document["machine"]["versions"]["torch"]
    assert json.loads((tmp_path / "bad.json").read_text())["status"] == 3


def test_quick_runs_small_forms_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = suite.Part("exit 1", "", quick="echo small")
    monkeypatch.setattr(suite, "PARTS", {"small": small, "long": suite.Part("exit 1", "")})
    assert suite.main(["--quick", "--runs", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.main(["lodaer"])
    assert "no part lodaer" in capsys.readouterr().err
