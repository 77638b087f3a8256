"""The list of `make mutants` applies to the code as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from mutant_list import Mutant, faults, read_list  # pyright: ignore[reportMissingImports] - the path is set above


def test_each_mistake_applies_to_one_place_and_names_tests_that_exist():
    found = {f"{mutant.listed_in}: {mutant.name}": fault for mutant, fault in faults(read_list()).items()}
    assert not found, "the code or a test has moved on: put these entries of tests/mutants/*.toml right"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"file": "b.py"}, "there is no b.py"),
        ({"old": "1"}, "its old text occurs 2 times in a.py"),
        ({"old": "3"}, "its old text occurs 0 times in a.py"),
        ({"new": "a = ("}, "its new text is no Python"),
        ({"new": "a = 1  # as before"}, "it changes no code"),
        ({"tests": ("test_a.py::test_other",)}, "there is no test_other in test_a.py"),
        ({"tests": ()}, "no tests"),
        ({}, ""),
    ],
)
def test_an_entry_that_cannot_be_applied_is_named(tmp_path, changed, says):
    (tmp_path / "a.py").write_text("a = 1\nb = 1\n")
    (tmp_path / "test_a.py").write_text("def test_one():\n    pass\n")
    entry = {"name": "x", "file": "a.py", "old": "a = 1", "new": "a = 2", "tests": ("test_a.py::test_one",), **changed}
    mutant = Mutant(listed_in="here", **entry)
    assert faults([mutant], tmp_path).get(mutant, "")[: len(says) or None] == says
    assert set(faults([mutant, Mutant(listed_in="there", **entry)], tmp_path).values()) == {
        "another entry has this name"
    }
