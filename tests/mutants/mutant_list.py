"""The curated list of mistakes: `*.toml` in this directory, one file an area or a branch.

Rules: an entry is a mistake that a tired engineer would make, not a typo, and changes what the library does. Its text
occurs exactly once in its file, so that the place is certain; `test_list.py` says so when the code has moved on.

    [[mutant]]
    name = "resume: repeats are lost on load"           # "topic: the mistake"
    file = "mixstream/plan/state.py"
    old = '''the exact text'''
    new = '''the mistake'''
    tests = ["tests/mixstream/plan/test_state.py"]      # what should notice, in a few seconds
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from copy import copy
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One mistake: in `file`, `new` stands where `old` should. One of `tests` fails if it is noticed."""

    listed_in: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """Return `text` of the file with the mistake."""
        return text.replace(self.old, self.new)


def read_list(directory: Path = Path(__file__).parent) -> list[Mutant]:
    """Return all entries of all lists in `directory`; ValueError names one that is not of the form above."""
    found = []
    for path in sorted(directory.glob("*.toml")):
        for entry in tomllib.loads(path.read_text()).get("mutant", []):
            wanted = {field.name for field in fields(Mutant)} - {"listed_in"}
            if set(entry) != wanted:
                raise ValueError(
                    f"{path.name}: {entry.get('name', entry)!r} has the keys {sorted(entry)}, not {wanted}"
                )
            found.append(Mutant(listed_in=path.stem, **{**entry, "tests": tuple(entry["tests"])}))
    return found


def faults(mutants: list[Mutant], root: Path = ROOT) -> dict[Mutant, str]:
    """Return what is wrong with the entries that cannot be applied to the tree at `root`."""
    names = Counter(mutant.name for mutant in mutants)
    found = {mutant: _fault(mutant, root) for mutant in mutants}
    found |= {mutant: "another entry has this name" for mutant in mutants if names[mutant.name] > 1}
    return {mutant: fault for mutant, fault in found.items() if fault}


def _fault(mutant: Mutant, root: Path) -> str:
    path = root / mutant.file
    if not path.is_file():
        return f"there is no {mutant.file}"
    text = path.read_text()
    if (times := text.count(mutant.old)) != 1:
        return f"its old text occurs {times} times in {mutant.file}"
    try:
        changed = mutant.applied(text)
        if _is_same_code(_parsed(text), ast.parse(changed).body, text.split("\n"), changed.split("\n")):
            return "it changes no code"
    except SyntaxError as error:
        return f"its new text is no Python: {error}"
    return next((fault for test in mutant.tests if (fault := _missing(test, root))), "" if mutant.tests else "no tests")


@cache
def _parsed(text: str) -> list[ast.stmt]:
    return ast.parse(text).body


def _is_same_code(one: list[ast.stmt], other: list[ast.stmt], lines: list[str], other_lines: list[str]) -> bool:
    """Return whether statements differ in comments and layout at most. Those of the same lines are not compared."""
    return len(one) == len(other) and all(
        _lines_of(left, lines) == _lines_of(right, other_lines) or _are_alike(left, right, lines, other_lines)
        for left, right in zip(one, other)
    )


def _are_alike(left: ast.stmt, right: ast.stmt, lines: list[str], other_lines: list[str]) -> bool:
    scopes = (ast.ClassDef, ast.FunctionDef)  # of which most lines are the same
    if not isinstance(left, scopes) or not isinstance(right, scopes):
        return ast.dump(left) == ast.dump(right)
    heads = [copy(left), copy(right)]
    for head in heads:
        head.body = []
    return ast.dump(heads[0]) == ast.dump(heads[1]) and _is_same_code(left.body, right.body, lines, other_lines)


def _lines_of(statement: ast.stmt, lines: list[str]) -> list[str]:
    begin = min(each.lineno for each in (statement, *getattr(statement, "decorator_list", ())))
    return lines[begin - 1 : statement.end_lineno]


def _missing(test: str, root: Path) -> str:
    file, *names = test.split("::")
    if not (root / file).is_file():
        return f"there is no {file}"
    text = (root / file).read_text()
    for name in names:
        if not re.search(rf"^\s*(async def|def|class) {re.escape(name.split('[')[0])}\b", text, re.MULTILINE):
            return f"there is no {name} in {file}"
    return ""
