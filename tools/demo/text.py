"""Real text that is on every machine with Python and torch, by domain: the demo's training data.

Rules. Nothing is downloaded, and no path is fixed except `/usr/share/common-licenses`. The choice of documents depends
only on the installed packages, so a second demo finds the same bytes and converts nothing. A domain with too little
text is left out and reported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mixstream.errors import ConfigError
from mixstream.storage import write_whole
from mixstream.units import show_bytes

_MB = 1 << 20
_LEAST_BYTES = 64 << 10
"""A domain with less text is left out: the model would read each line of it dozens of times."""
_LEAST_DOMAINS = 2
_LEAST_DOCSTRING = 400
_LONGEST = 512 << 10
"""Longer documents are skipped: a single one would be most of its domain."""
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
_COMMON_LICENSES = Path("/usr/share/common-licenses")
_LEGAL_NAME = re.compile(r"licen[cs]e|copying|notice|copyright", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """One kind of text.

    Attributes:
        name: name of the domain.
        about: description of its text.
        limit: maximum bytes of text.
        documents: finds the documents; the first ones up to `limit` are taken.
    """

    name: str
    about: str
    limit: int
    documents: Callable[[], Iterable[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """The result: a file of JSON lines and its bytes of text per domain, and why other domains were left out."""

    files: dict[str, Path]
    sizes: dict[str, int]
    left_out: dict[str, str]


def gather(out: Path) -> Gathered:
    """Write `out/<domain>.jsonl`, one document a line; files with the same content are not written again.

    Raises:
        ConfigError: fewer than two domains have enough text.
    """
    out.mkdir(parents=True, exist_ok=True)
    gathered = Gathered(files={}, sizes={}, left_out={})
    for domain in DOMAINS:
        documents = list(_limited(domain.documents(), domain.limit))
        size = sum(len(text.encode()) for text in documents)
        if size < _LEAST_BYTES:
            gathered.left_out[domain.name] = (
                f"{domain.about}: {show_bytes(size)} here, {show_bytes(_LEAST_BYTES)} needed"
            )
            continue
        file = out / f"{domain.name}.jsonl"
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
        _write_if_changed(file, "".join(lines).encode())
        gathered.files[domain.name], gathered.sizes[domain.name] = file, size
    if len(gathered.files) < _LEAST_DOMAINS:
        error = ConfigError(
            f"of the {len(DOMAINS)} kinds of text that the demo mixes, {len(gathered.files)} can be found here, and "
            f"{_LEAST_DOMAINS} are needed: run it in an environment where torch and its dependencies were installed "
            "with pip"
        )
        for name, why in gathered.left_out.items():
            error.add_note(f"{name}: {why}")
        raise error
    return gathered


def _limited(documents: Iterable[str], limit: int) -> Iterator[str]:
    """Yield each document once, up to `limit` bytes in total."""
    seen: set[bytes] = set()
    for text in documents:
        try:
            content = text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, for example in a README
            continue
        digest = hashlib.sha256(content).digest()
        if digest in seen or not text.strip() or len(content) > _LONGEST:
            continue
        seen.add(digest)
        if limit < len(content):
            return
        limit -= len(content)
        yield text


def _write_if_changed(file: Path, content: bytes) -> None:
    if file.is_file() and file.read_bytes() == content:
        return
    with write_whole(file) as whole:
        whole.write(content)


# --- sources of text ----------------------------------------------------------------------------------------------


def _code() -> Iterator[str]:
    return _texts(_below(Path(sysconfig.get_path("stdlib")), (".py",), _NOT_LIBRARY))


def _headers() -> Iterator[str]:
    # ATen/ops has thousands of generated headers with nearly the same content.
    return _texts(_below(_package("torch") / "include", (".h", ".hpp", ".cuh"), {"ops"}))


def _readmes() -> Iterator[str]:
    for found in _distributions():
        described = found.metadata.json.get("description")
        if isinstance(described, str):
            yield described


def _licences() -> Iterator[str]:
    files = [
        Path(str(found.locate_file(file)))
        for found in _distributions()
        for file in found.files or ()
        if ".dist-info" in str(file) and _LEGAL_NAME.search(file.name)
    ]
    common = sorted(_COMMON_LICENSES.iterdir()) if _COMMON_LICENSES.is_dir() else []
    return _texts([*common, *files])


def _prose() -> Iterator[str]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions of Python leave it out
        topics = {}
    yield from topics.values()
    for package in ("numpy", "torch"):
        for text in _texts(_below(_package(package), (".py",), _NOT_LIBRARY)):
            yield from _docstrings(text)


DOMAINS = (
    Domain(name="code", about="Python's standard library", limit=5 * _MB, documents=_code),
    Domain(name="cpp", about="torch's C++ headers", limit=5 * _MB, documents=_headers),
    Domain(name="docs", about="READMEs of installed packages", limit=2 * _MB, documents=_readmes),
    Domain(name="legal", about="licences", limit=2 * _MB, documents=_licences),
    Domain(name="prose", about="Python's reference, docstrings of numpy and torch", limit=_MB, documents=_prose),
)


def _distributions() -> list[importlib.metadata.Distribution]:
    by_name = {str(found.metadata["Name"]).lower(): found for found in importlib.metadata.distributions()}
    return [by_name[name] for name in sorted(by_name)]


def _package(name: str) -> Path:
    """The directory of a package, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else Path(os.devnull)


def _below(root: Path, suffixes: tuple[str, ...], without: set[str]) -> list[Path]:
    """The files below `root`, in an order that mixes folders and is the same on every machine."""
    found: list[tuple[bytes, Path]] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in without]
        for name in files:
            if name.endswith(suffixes):
                path = Path(folder, name)
                key = hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()
                found.append((key, path))
    return [path for _, path in sorted(found)]


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        with suppress(OSError, UnicodeDecodeError):  # the demo can do without any single file
            yield file.read_text(encoding="utf-8")


def _docstrings(source: str) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # other packages have invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text and len(text) >= _LEAST_DOCSTRING:
                yield inspect.cleandoc(text)
