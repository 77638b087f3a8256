"""Progress and results, where there is no terminal."""

import io
import json

import pytest
from rich.console import Console as RichConsole

from mixstream_tools.shared.console import Console, show_bytes, show_seconds, table


def test_progress_is_plain_lines_at_intervals(capsys):
    console = Console(interval_s=0)
    with console.progress("convert", total=4096, done=1024) as advance:
        advance(1024)
        advance(2048)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "convert: 50 %, 2.0 KiB of 4.0 KiB"  # what came before the first units says nothing of the rate
    assert lines[1].startswith("convert: 100 %, 4.0 KiB of 4.0 KiB, ")
    assert lines[1].endswith("0 s left")


def test_the_rate_is_that_since_the_first_units(monkeypatch, capsys):
    clock = iter([0.0, 60.0, 70.0])  # a minute to load a model
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Console().progress("embed", total=300, unit="rows") as advance:
        advance(100)
        advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "embed: 33 %, 100 of 300 rows",
        "embed: 67 %, 200 of 300 rows, 10 rows/s, 10 s left",
    ]


def test_progress_is_silent_between_intervals(capsys):
    with Console(interval_s=60).progress("convert", total=10) as advance:
        for _ in range(10):
            advance(1)
    assert not capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Console().progress("convert", total=10) as advance:
        advance(10)
    assert "convert" in capsys.readouterr().err


def test_a_result_is_json_or_text_never_both(capsys):
    parts = (table(("name", "rows"), [("web", 12345)]), "done")
    Console(as_json=True).result({"rows": 12345}, *parts)
    assert json.loads(capsys.readouterr().out) == {"rows": 12345}
    Console().result({"rows": 12345}, *parts)
    told = capsys.readouterr()
    assert told.out.split() == ["name", "rows", "web", "12,345", "done"]
    assert not told.err


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1023, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_show_bytes(size, text):
    assert show_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (4000, "1 h 06 min"), (float("inf"), "unknown time")],
)
def test_show_seconds(seconds, text):
    assert show_seconds(seconds) == text


def test_on_a_narrow_terminal_texts_fold_and_numbers_do_not():
    rows = [("a_domain_with_a_long_name/train", 1_234_567, "432.6 KiB", 7), ("web", 12, "1 KiB", 7_000_000)]
    terminal = RichConsole(width=44, file=io.StringIO())
    terminal.print(table(["dataset", "documents", "text", "dropped tokens"], rows))
    told = terminal.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(map(len, told.splitlines())) <= 44
    assert "1,234,567" in told
    assert "7,000,000" in told
    assert "dropped tokens" not in told
    wide = RichConsole(width=160, file=io.StringIO())
    wide.print(table(["dataset", "documents", "text", "dropped tokens"], rows))
    assert "dropped tokens" in wide.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
