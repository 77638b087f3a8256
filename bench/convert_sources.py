"""`mixstream convert` on real files: whatever this machine has, for each kind of source.

    python bench/convert_sources.py [--roots /usr/share/doc /my/corpora] [--mb 8] [--kinds text csv …] [--kill]

A line for each kind: files, their size, documents, rows of 256 bytes; whether what is decoded from the rows,
document by document as the sidecar says, is the text that Python's own modules or pyarrow read from the files (of
WARC and MDS, whether it has the hash in the sidecar); and the peak memory of the conversion above that of a file of
1 kB, in MB and over the size of the input (one worker, a fresh process). With --kill, the conversion is killed
(SIGKILL) twice on its way and run again: the shards have to be the same bytes. Kinds without a file are named. The
default roots are Debian's documentation and the packages of this Python; packages with test data, such as pyarrow, and
clones of other projects give more kinds. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import fnmatch
import gzip
import io
import json
import lzma
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard

import mixstream as ms
from mixstream.documents import Documents

ROOTS = [
    "/usr/share/doc",
    "/usr/share/man",
    *sorted({sysconfig.get_path("purelib"), str(Path(pa.__file__).parents[1])}),
]
SEQ_LEN, EOS = 256, 256
UNREADABLE = (ValueError, OSError, EOFError, KeyError, csv.Error, tarfile.TarError, zipfile.BadZipFile)
UNREADABLE += (pa.ArrowException, lzma.LZMAError, zstandard.ZstdError)
MOST_FILES = 200
LEAST = 1 << 20  # bytes; the memory of smaller inputs is that of the program's own pages
OPENERS: dict[str, Callable] = {"": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "zst": zstandard.open}
TEXTS = ("*.txt", "*.py", "*.md", "*.rst", "*.c", "*.h", "*.toml", "*.js", "copyright")  # members of archives
KINDS = {".txt": "text", ".rst": "text", ".md": "text", ".py": "source code", ".jsonl": "jsonl", ".ndjson": "jsonl",
         ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".feather": "arrow", ".arrow": "arrow",
         ".tar": "tar", ".zip": "zip", ".warc": "warc", ".wet": "warc"}  # fmt: skip
WHOLE = ("hf folder", "mds", "webdataset", "stdin")
PACKED = ("text.gz", "jsonl.gz", "jsonl.zst", "json.gz", "csv.gz", "tar.gz", "warc.gz", "text.xz", "text.bz2")


@dataclass
class Case:
    """One conversion.

    Attributes:
        sources: what is given to convert.
        size: of the files, in bytes.
        texts: what another program reads from them; None where only hashes in the sidecar can be compared.
        options: of the command.
    """

    sources: list[Path]
    size: int = 0
    texts: list[str] | None = field(default_factory=list)
    options: list[str] = field(default_factory=list)


# -- what another program reads ---------------------------------------------------------------------------------------


def read(path: Path, packed: str) -> bytes:
    with OPENERS[packed](path, "rb") as file:
        return file.read()


def plain(data: bytes) -> str:
    """Text, or ValueError."""
    if b"\0" in data:
        raise ValueError("NUL")
    return data.decode().removeprefix("\ufeff")


def records(kind: str, path: Path, packed: str) -> list[dict]:
    """The records of a file with fields."""
    if kind == "parquet":
        return pq.read_table(path).to_pylist()
    if kind == "arrow":
        with pa.memory_map(str(path)) as file:
            try:
                return pa.ipc.open_file(file).read_all().to_pylist()
            except pa.ArrowInvalid:
                file.seek(0)
                return pa.ipc.open_stream(file).read_all().to_pylist()
    text = plain(read(path, packed))
    if kind in {"csv", "tsv"}:
        delimiter = "\t" if kind == "tsv" else next(mark for mark in ",;\t|\n" if mark in text.split("\n", 1)[0] + "\n")
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        if any(len(row) not in {0, len(header)} for row in rows):
            raise ValueError("uneven")
        return [dict(zip(header, row)) for row in rows if row]
    try:
        whole = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return whole if isinstance(whole, list) else [whole]


def key_of(found: list[dict]) -> str:
    """The field with most text; ValueError if no field is a text in all records."""
    if not all(isinstance(row, dict) for row in found):
        raise ValueError("no objects")
    keys = [key for key in found[0] if key and all(isinstance(row.get(key), str) for row in found)] if found else []
    keys = [key for key in keys if not set(key) & set(".,?") and key.strip() == key]  # these signs have a meaning
    return max(keys, key=lambda key: sum(len(row[key]) for row in found), default="") or fail("no text in all records")


def fail(why: str) -> str:
    raise ValueError(why)


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of an archive that convert is told to read."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = [(info.filename, archive.read(info)) for info in archive.infolist() if not info.is_dir()]
    else:
        with tarfile.open(path) as archive:
            found = [(info.name, archive.extractfile(info).read()) for info in archive if info.isreg()]  # type: ignore[union-attr]
    for name, data in found:
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not is_hidden and any(fnmatch.fnmatchcase(name.rpartition("/")[2], each) for each in TEXTS):
            yield name, data


# -- which files there are --------------------------------------------------------------------------------------------


def find_files(roots: list[str]) -> dict[str, list[Path]]:
    """Files by kind: real ones, not hidden, in the order of their paths."""
    found: dict[str, list[Path]] = defaultdict(list)
    for root in roots:
        for directory, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            here = Path(directory)
            if "state.json" in names and any(name.endswith(".arrow") for name in names):
                found["hf folder"].append(here)
            elif "index.json" in names and any(".mds" in name for name in names):
                found["mds"].append(here)
            else:
                for name in sorted(names):
                    if (kind := kind_of(name)) and not (path := here / name).is_symlink() and path.stat().st_size:
                        found[kind].append(path)
    return found


def kind_of(name: str) -> str:
    base, dot, packed = name.rpartition(".")
    if name.endswith(".tgz"):
        return "tar.gz"
    if not dot or packed not in OPENERS:
        return "text" if name == "copyright" else KINDS.get(Path(name).suffix, "")
    suffix = Path(base).suffix
    kind = KINDS.get(suffix, "text" if base in {"changelog", "NEWS", "README"} or suffix[1:].isdigit() else "")
    return f"{kind}.{packed}" if kind else ""


def case_of(kind: str, paths: list[Path], limit: int) -> Case | None:
    """A conversion of as many files as the limit allows; None if none can be read without doubt."""
    what, _, packed = kind.partition(".")
    cases: dict[str, Case] = defaultdict(lambda: Case(sources=[]))  # by the field with the text
    for path in paths:
        size = sum(each.stat().st_size for each in path.rglob("*")) if path.is_dir() else path.stat().st_size
        try:
            key, texts, options = look(what, path, packed)
        except UNREADABLE:
            continue
        case = cases[key]
        if len(case.sources) < MOST_FILES and (not case.sources or case.size + size <= limit):
            case.sources.append(path)
            case.size += size
            case.options = options
            case.texts = None if texts is None or case.texts is None else [*case.texts, *texts]
    return max(cases.values(), key=lambda case: case.size, default=None)


def look(what: str, path: Path, packed: str) -> tuple[str, list[str] | None, list[str]]:
    """The field with the text, the texts, and the options; ValueError if the file is no such source."""
    if what in {"text", "source code", "stdin"}:
        return "", [plain(read(path, packed))], ["--format", "text"]
    if what in {"tar", "zip"}:
        patterns = [text for each in TEXTS for text in ("--include", each, "--as-text", each)]
        return "", [plain(data) for _, data in members(path)] or [fail("no text")], ["--format", what, *patterns]
    if what == "webdataset":
        with tarfile.open(path) as archive:
            found = [(info.name, archive.extractfile(info).read()) for info in archive if info.isreg()]  # type: ignore[union-attr]
        texts = {name.removesuffix(".txt"): plain(data) for name, data in found if name.endswith(".txt")}
        if not texts or {re.sub(r"(?<=[^/])[.][^/]*$", "", name) for name, _ in found} != {*texts}:
            raise ValueError("not a text in each sample")
        return "", [*texts.values()], ["--format", "webdataset", "--text-key", "txt"]
    if what == "warc":
        return "", None, ["--extract", "resiliparse", "--on-bad-document", "skip"]
    if what == "mds":
        layout = json.loads((path / "index.json").read_text())["shards"][0]
        pairs = zip(layout["column_names"], layout["column_encodings"])
        key = next((name for name, kind in pairs if kind == "str"), "") or fail("no text")
        return key, None, ["--text-key", key]
    if what == "hf folder":
        names = [each["filename"] for each in json.loads((path / "state.json").read_text())["_data_files"]]
        found = [row for name in names for row in records("arrow", path / name, "")]
    else:
        found = records(what, path, packed)
    key = key_of(found)
    return key, [row[key] for row in found], ["--text-key", key]


# -- conversion and check ---------------------------------------------------------------------------------------------


def convert(case: Case, out: Path, *, stdin: bool = False, kill_after: float | None = None) -> dict:
    """Convert in a process of its own; returns what it printed, its peak memory in bytes and its seconds."""
    sources = ["a=-"] if stdin else [f"a={path}" for path in case.sources]
    command = [sys.executable, __file__, "--convert", *sources, "--out", str(out), *case.options]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    try:
        typed = case.sources[0].read_bytes() if stdin else None
        told, error = process.communicate(typed, timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {}
    try:
        text, mine = told.decode().rstrip().rsplit("\n", 1)
        return json.loads(text) | {"peak": json.loads(mine), "took": time.monotonic() - begun}
    except ValueError:
        return {"error": {"message": error.decode()[-500:]}}


def convert_here(arguments: list[str]) -> None:
    """Convert in this process, and print its peak memory in bytes."""
    from mixstream_tools.cli import main

    main(["convert", *arguments, "--workers", "1", "--seq-len", str(SEQ_LEN), "--json"])
    status = Path("/proc/self/status").read_text()  # getrusage begins with the memory of the process that started this
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def check(dataset: Path, texts: list[str] | None) -> str:
    """Compare the documents that the rows hold with the texts; empty if all are equal."""
    stream = ms.StreamingDataset(local=str(dataset), shuffle=False, batch_size=1)
    tokens = [token for at in range(len(stream)) for token in stream[at]["tokens"].tolist()]
    documents: dict[int, tuple[int, int, list[int]]] = {}
    at = 0
    for block in Documents.open(str(dataset)).blocks(["document", "row", "tokens", "length", "hash"]):
        for line in block.to_pylist():
            number, size = line["document"], line["tokens"]
            held = documents.setdefault(number, (line["length"], line["hash"], []))[2]
            if line["row"] is not None:
                held += tokens[at : at + size]
                at += size
    if at != len(tokens):
        return f"segments have {at:,} tokens, rows {len(tokens):,}"
    wanted = None if texts is None else Counter(xxhash.xxh3_64_intdigest(text.encode()) for text in texts if text)
    if wanted is not None and wanted != (found := Counter(hash_ for _, hash_, _ in documents.values())):
        return f"{(wanted - found).total()} texts are missing, {(found - wanted).total()} are others"
    for length, hash_, held in documents.values():
        if len(held) < length:
            continue  # its end was dropped with the last row
        text = bytes(held[:-1])
        if held[-1] != EOS or xxhash.xxh3_64_intdigest(text) != hash_:
            return "a document is not its text"
    return ""


def shards_of(out: Path) -> dict[str, bytes]:
    """Hashes of all files of an output, without what names the run."""
    return {
        str(path.relative_to(out)): xxhash.xxh3_128_digest(path.read_bytes())
        for path in sorted(out.rglob("*.mds*")) + sorted(out.rglob("index.json")) + sorted(out.rglob("*.parquet"))
        if ".convert" not in path.parts
    }


def run(kind: str, case: Case, least: int, *, kill: bool) -> str:
    """Convert, check, and return the line of a kind."""
    with tempfile.TemporaryDirectory() as place:
        told = convert(case, Path(place, "out"), stdin=kind == "stdin")
        about = f"{kind:12} {len(case.sources):>5,} {case.size / 1e6:>8.2f}"
        if "domains" not in told or "error" in told:
            return f"{about}  failed: {told.get('error', told).get('message', '')[:300]}"
        counts = told["domains"]["a"]["train"]
        fault = check(Path(place, "out/a/train"), case.texts) if counts["rows"] else "no row"
        peak = max(told["peak"] - least, 0)
        line = f"{about} {counts['documents']:>9,} {counts['rows']:>8,}  {fault or 'equal':9} {peak / 1e6:>7.0f}"
        line += f" {peak / case.size:>8.1f}" if case.size >= LEAST else f" {'-':>8}"
        if kill:
            for _ in range(2):  # the second one is killed after what the first one left
                convert(case, Path(place, "again"), stdin=kind == "stdin", kill_after=told["took"] * 0.75)
            convert(case, Path(place, "again"), stdin=kind == "stdin")
            same = shards_of(Path(place, "again")) == shards_of(Path(place, "out"))
            line += f"  {'same bytes' if same else 'OTHER BYTES'}"
        return line


def compare(roots: list[str], kinds: list[str], limit: int, *, kill: bool) -> None:
    """Print a line for each kind."""
    found = find_files(roots)
    found["webdataset"] = [*found["tar"], *found["tar.gz"]]
    found["stdin"] = found["text.gz"][:1]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file, tempfile.TemporaryDirectory() as out:
        file.write("A line of text. " * 64)
        file.flush()
        least = convert(Case(sources=[Path(file.name)]), Path(out))["peak"]
    head = f"{'kind':12} {'files':>5} {'MB':>8} {'documents':>9} {'rows':>8}"
    print(f"{head}  {'rows=text':9} {'peak MB':>7} {'/input':>8}" + ("  killed" if kill else ""), flush=True)
    absent = []
    for kind in kinds:
        case = case_of("stdin.gz" if kind == "stdin" else kind, found[kind], limit)
        if case is None:
            absent.append(kind)
        else:
            print(run(kind, case, least, kill=kill), flush=True)
    if absent:
        print(f"skipped, no file: {', '.join(absent)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--convert"]:
        convert_here(sys.argv[2:])
        sys.exit()
    known = sorted({*KINDS.values(), *WHOLE, *PACKED})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", nargs="+", default=ROOTS)
    parser.add_argument("--mb", type=float, default=8, help="of each kind at most, if it has several files")
    parser.add_argument("--kinds", nargs="+", default=known, choices=known)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    compare(given.roots, given.kinds, int(given.mb * 1e6), kill=given.kill)
