"""Options that are numbers: the nonsense that every command refuses, by the option's name, before it begins."""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any, get_args

import pytest
from cyclopts import CycloptsError, Token

from mixstream_tools.cli import COMMANDS, _app, main

HUGE = "9" * 30
ODD = {
    int: ("-1", "1.5", "2.0", "nan", "inf", HUGE, f"-{HUGE}", "9" * 400, "9" * 5000, "", "1e3", "0x", "true"),
    float: ("-1", "nan", "-inf", "", "1,5", "true", "1e999999x"),
}
"""Kind of number → words that are none that an option may have."""
NEGATIVE = {"--pad", "--seed", "--shuffle-seed"}
"""Options that may be negative: some data has -1 where a row is padded, and a choice may have any seed."""


def kind_of(hint: Any) -> Any:
    """Return `int` or `float` for the type of an option that is a number, or None."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in (int, float) else None


@cache
def numbers_of(name: str) -> dict[str, Any]:
    """Return the options of a command that are numbers, as cyclopts knows them."""
    app = _app(name.split())
    for word in name.split():
        app = app[word]
    found = app.assemble_argument_collection()
    return {each.name: each for each in found if each.parse and kind_of(each.hint) is not None}


def said_of(argument: Any, word: str) -> str:
    """Return what is said of a word that is given for an option; "" if it is taken."""
    argument = copy(argument)  # one that was converted keeps its value
    argument.tokens = [Token(keyword=argument.name, value=word)]
    try:
        argument.convert_and_validate()
    except CycloptsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_nonsense_for_a_number(name):
    taken = {}
    for option, argument in numbers_of(name).items():
        for word in ODD[kind_of(argument.hint)]:
            if not (word == "-1" and option in NEGATIVE and name != "select validate"):
                said = said_of(argument, word)
                if f"{option} {word[:37] or repr(word)}" not in said or ": give " not in said:
                    taken[option, word] = said
    assert not taken


def test_most_commands_have_such_options():
    """The test above looks at what it should."""
    numbers = {(name, option) for name in COMMANDS for option in numbers_of(name)}
    assert len(numbers) > 100
    assert {("convert", "--workers"), ("select stats", "--shards"), ("select sample", "N")} <= numbers
    assert {("prune run", "--fraction"), ("inspect", "--download-timeout"), ("demo", "--seed")} <= numbers


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("convert a.txt --out out --workers 1.5", "--workers 1.5: give a whole number, 1 or more, at most 4096"),
        (f"select random d --out o --seed {HUGE}", f"--seed {HUGE}: give -9223372036854775808 or more, at most"),
        ("select stats kept --overlap -1", "--overlap -1: give 0 or more, at most 1"),
        ("select stats kept --shards none", "--shards none: give a whole number, 0 or more"),
        ("select verify kept --download-timeout nan", "--download-timeout nan: give a number above 0 and at most"),
        ("select verify kept --download-timeout inf", "--download-timeout inf: give a number above 0"),
        ("select verify kept --download-retry -1", "--download-retry -1: give 0 or more"),
        ("select sample kept 1.5", "N 1.5: give a whole number, 1 or more"),
        ("demo --steps 99999999", "--steps 99999999: give 1 or more, at most 1000000"),
        ("demo --seed=", "--seed '': give a whole number, -9223"),
        ("rows data --step 99999999999999999999", "--step 99999999999999999999: give 0 or more, at most"),
        ("demo selection --eps nan", "--eps nan: give a number above 0 and below 2"),
        ("attribute features data --model m --out o --pad 1.5", "--pad 1.5: give a whole number"),
        ("prune run --emb e --side hard --fraction nan --out o", "--fraction nan: give a share above 0 and at most 1"),
    ],
)  # fmt: skip
def test_wrong_use_says_the_option_its_range_and_what_was_given(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert "--help`" in said.err
    assert not said.out


def test_a_conversion_has_no_negative_seed(capsys, tmp_path):
    assert main(["convert", str(tmp_path), "--out", str(tmp_path / "out"), "--seed", "-1"]) == 2
    assert "--seed -1: give a number from 0 to 2**64 - 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["select random", "select top", "prune run", "prune dedup", "pack", "demo"])
@pytest.mark.parametrize("word", ["-1", "0", str(-(1 << 63)), str((1 << 64) - 1)])
def test_a_choice_that_was_made_with_any_seed_can_be_made_again(name, word):
    assert not said_of(numbers_of(name)["--seed"], word)


def test_a_temperature_may_be_infinite_and_passes_may_not():
    """All domains are equal then, as the mixer says."""
    options = numbers_of("plan")
    assert not said_of(options["--temperature"], "inf")
    assert "--max-epochs inf: give a number above 0" in said_of(options["--max-epochs"], "inf")


@pytest.mark.parametrize("word", ["8", "0x8", "0b1000", "1_000", " 8 ", "none"])
def test_what_is_a_whole_number_stays_one(word):
    assert not said_of(numbers_of("convert")["--workers"], word)
