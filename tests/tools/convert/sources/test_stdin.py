"""SRC `-`: what comes through a pipe is converted as a file with the same bytes is."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixstream.errors import ConfigError, StateError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer

LINES = "".join(json.dumps({"text": f"{at} " * (at % 40 + 1)}) + "\n" for at in range(150)).encode()


@pytest.fixture
def piped(monkeypatch):
    """Convert with these bytes as standard input."""

    def convert(data: bytes, out: Path, *sources, terminal: bool = False, **options):
        stream = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stream)
        fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text"), "seq_len": 16}
        overwrite = options.pop("overwrite", False)
        recipe = Recipe(**{**fixed, "part_bytes": 2000, **options})
        return run_conversion(list(map(str, sources or ["web=-"])), out=out, recipe=recipe, overwrite=overwrite)

    return convert


def shards(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.mds"))}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_gives_what_a_file_gives_and_its_copy_is_removed(piped, tmp_path, pack):
    told = piped(pack(LINES), tmp_path / "out")
    (tmp_path / "web.jsonl").write_bytes(LINES)
    (tmp_path / "web.jsonl.gz").write_bytes(gzip.compress(LINES))
    piped(b"", tmp_path / "file", tmp_path / ("web.jsonl" if pack is bytes else "web.jsonl.gz"))
    assert shards(tmp_path / "out") == shards(tmp_path / "file") != {}
    assert told["domains"]["web"]["train"]["documents"] == 150
    assert not (tmp_path / "out/.convert/stdin").exists()


def test_the_same_bytes_again_are_nothing_to_do_and_others_are_another_source(piped, tmp_path):
    piped(LINES, tmp_path / "out", "-")
    assert piped(LINES, tmp_path / "out", "-")["status"] == "nothing to do"
    with pytest.raises(StateError, match=r"--overwrite, which rebuilds stdin"):
        piped(LINES.upper(), tmp_path / "out", "-", fields=Fields(text="TEXT"))
    with pytest.raises(StateError, match="--overwrite"):
        piped(LINES.replace(b"1", b"2"), tmp_path / "out", "-")
    assert piped(LINES.replace(b"1", b"2"), tmp_path / "out", "-", overwrite=True)["status"] == "converted"


def test_finished_parts_are_kept_over_an_interruption(piped, tmp_path, monkeypatch, capsys):
    broken = LINES + b'{"text": 7}\n'
    with pytest.raises(SourceError, match=r"\.convert/stdin/stdin, line 151: field 'text' is a JSON number"):
        piped(broken, tmp_path / "out")
    assert (tmp_path / "out/.convert/stdin/stdin").read_bytes() == broken
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("part-*/*.mds")}
    assert done
    told = piped(broken, tmp_path / "out", on_bad_document="skip")
    assert (told["status"], told["skipped"]["documents"]) == ("converted", 1)
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.parametrize(
    ("data", "sources", "message"),
    [
        (b"", ["-"], "standard input is empty"),
        (b"x", ["-", "a=-"], "2 SRC are `-`"),
        (b"%PDF-1.7" + b"\0" * 99, ["-"], "PDF"),
    ],
)
def test_what_cannot_be_read_is_refused(piped, tmp_path, data, sources, message):
    with pytest.raises(ConfigError, match=message):
        piped(data, tmp_path / "out", *sources)


def test_a_terminal_is_refused_and_a_foreign_directory_is_not_touched(piped, tmp_path):
    with pytest.raises(ConfigError, match="is a terminal"):
        piped(b"x", tmp_path / "out", terminal=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(ConfigError, match="which convert did not write"):
        piped(b"x", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["file"]


def test_a_real_pipe(tmp_path, read_rows, expected_rows):
    (tmp_path / "x.gz").write_bytes(gzip.compress(LINES))
    out = tmp_path / "out"
    # The pipe is not a file: it cannot be read twice, and has no size.
    with subprocess.Popen(["gzip", "-dc", tmp_path / "x.gz"], stdout=subprocess.PIPE) as source:
        command = [sys.executable, "-m", "mixstream_tools.cli", "convert", "web=-", "--out", out, "--seq-len", "16"]
        done = subprocess.run(
            [*command, "--workers", "1"], stdin=source.stdout, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    texts = [json.loads(line)["text"] for line in LINES.splitlines()]
    assert read_rows(out / "web/train").tolist() == expected_rows(texts, 16).tolist()
