"""The options of `mixstream select`: each is a promise, and each command teaches by an example."""

from __future__ import annotations

import re

import pytest

from mixstream_tools.cli import COMMANDS, main

READING = "split local cache-limit download-retry download-timeout seq-len overlap dtype token-column"
OPTIONS = {
    "top": "by column control dry-run each fraction json out overall "
    "overwrite per-domain row-tokens rows seed side tokens tokens-column within",
    "where": "dry-run json out overwrite row-tokens tokens-column within",
    "random": "by dry-run dtype each fraction inverse json like out overall overlap "
    "overwrite per-domain row-tokens rows seed seq-len split tokens tokens-column within",
    "combine": "and dry-run json minus or out overwrite",
    "import": "columns dataset documents drop-listed dry-run duplicates format json keep-listed "
    "key out overwrite selection side spans split where",
    "split": "buckets column dry-run json out overwrite within",
    "stats": "dataset dtype json local overlap scores seq-len shards split",
    "sample": "characters column dataset json random score-column scores seed split tokenizer",
    "verify": "full json split",
    "overlap": "column dataset json ngram out overwrite split target text-key tokenizer unit",
    "validate": "column dry-run fraction json loss-key seed seeds side subset-fraction subsets train-cmd work workers",
    "diff": "json",
    "export": "columns dry-run json overwrite to unscored within",
    "key": "dry-run engine json of out overwrite part parts ray-address split workers",
    "rebase": "drop-missing dry-run json keys min-found out overwrite split to",
    "merge": "dry-run json",
}
"""Command → its options. A new one is added here, and to docs/ where its page lists options, on purpose."""

READS_SHARDS = {"import", "key", "overlap", "rebase", "sample", "verify"}
"""Commands that also have the options of `READING`."""


def test_every_command_is_listed() -> None:
    assert set(OPTIONS) == {name.split()[1] for name in COMMANDS if name.startswith("select ")}


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen(capsys, monkeypatch, command) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["select", command, "--help"]) == 0
    text = capsys.readouterr().out
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*(?= )", text[text.index("Parameters") :]))
    reading = READING if command in READS_SHARDS else ""
    assert shown == {f"--{name}" for name in f"{OPTIONS[command]} {reading}".split()}
    assert f"mixstream select {command} " in text
