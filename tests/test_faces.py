"""Tools, examples and integrations import the library's faces only; a command imports its own folder and `shared`.

A face is `mixstream` itself, or one of its packages and single files in `FACES`: what it exports may be used, what lies
deeper may move. `tools/demo` also imports the face of `convert`, because the demo converts its text as a user would.
"""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("tools", "examples", "mixstream/integrations") for path in (ROOT / folder).rglob("*.py")
)
FACES = {
    *(
        "formats",
        "storage",
        "plan",
        "feedback",
        "mixers",
        "errors",
        "types",
        "units",
        "data",
        "loader",
        "packing",
        "selection",
    ),
    "documents",
    "plan.megatron",
    "plan.mosaic",
    "formats.columns",
    *("selection.datamodels", "selection.embedders", "selection.prototypes", "integrations", "losses", "lazy"),
}
OTHER_FACES = {"demo": {"convert", "cli"}}
"""Command → other commands whose faces it may import; `cli` runs commands as they are typed."""


class Import(NamedTuple):
    """One imported module, or one name imported from it; `level` counts the dots of a relative import."""

    module: str
    name: str
    level: int


def imports(source: str) -> Iterator[Import]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(node.module or "", alias.name, node.level) for alias in node.names)


def deeper(source: str, own: str = "") -> set[str]:
    """Return the modules of mixstream that are no face, and names that a face does not export.

    Args:
        own: the package of the source, whose modules it may import.
    """
    found = set()
    for module, name, level in imports(source):
        top, _, face = module.partition(".")
        if level or top != "mixstream" or (own and module.startswith(own)):
            continue
        if face and face not in FACES:
            found.add(module)
        elif name and not is_exported(module, name):
            found.add(f"{module}:{name}")
    return found


def is_exported(module: str, name: str) -> bool:
    if module == "mixstream" and name in FACES:
        return True
    face = importlib.import_module(module)
    if hasattr(face, "__path__"):
        return name in face.__all__
    return not name.startswith("_")


def strangers(folder: str, parts: tuple[str, ...], source: str) -> set[str]:
    """Return what a file in a folder of tools/ imports of other folders; `parts` is its path below that folder."""
    found = set()
    package = ("mixstream_tools", folder, *parts[:-1])
    for module, name, level in imports(source):
        base = package[: len(package) - level + 1] if level else ()
        top, *path = [*base, *filter(None, module.split(".")), name]
        is_other_face = path[0] in OTHER_FACES.get(folder, ()) and len(path) == 2
        if top == "mixstream_tools" and path[0] not in {folder, "shared"} and not is_other_face:
            found.add(".".join(path))
    return found


def test_only_faces_are_imported() -> None:
    owns = {path: "mixstream.integrations" if "integrations" in path.parts else "" for path in FILES}
    found = {
        (path.relative_to(ROOT).as_posix(), module) for path in FILES for module in deeper(path.read_text(), owns[path])
    }
    assert len(FILES) > 40
    assert not found, "import the face instead, and export the name there"


def test_commands_import_their_own_folder_and_shared() -> None:
    found = {}
    for path in sorted((ROOT / "tools").rglob("*.py")):
        folder, *parts = path.relative_to(ROOT / "tools").parts
        if parts:
            found[path.relative_to(ROOT).as_posix()] = strangers(folder, tuple(parts), path.read_text())
    assert len(found) > 40
    assert not {file: what for file, what in found.items() if what}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import mixstream as ms\nfrom mixstream import mixers, MDSWriter, storage", set()),
        ("from mixstream.storage import open_store\nfrom mixstream.units import parse_bytes", set()),
        ("import mixstream.storage.retry", {"mixstream.storage.retry"}),
        ("def f():\n    from mixstream.formats.mds.index import Index", {"mixstream.formats.mds.index"}),
        ("from mixstream.storage import retry", {"mixstream.storage:retry"}),
        ("from mixstream.errors import _bad", {"mixstream.errors:_bad"}),
        ("from mixstream import kernels", {"mixstream:kernels"}),
        ("from mixstream.writer import MDSWriter", {"mixstream.writer"}),
    ],
)
def test_the_search_finds_what_lies_deeper(source: str, found: set[str]) -> None:
    assert deeper(source) == found


@pytest.mark.parametrize(
    ("parts", "source", "found"),
    [
        (("run.py",), "from .step_log import Step\nfrom ..shared.console import Console\nfrom . import text", set()),
        (("run.py",), "from ..convert import Recipe", set()),
        (("run.py",), "from ..convert.recipe import Recipe", {"convert.recipe.Recipe"}),
        (("run.py",), "from .. import plan", {"plan"}),
        (("run.py",), "from mixstream_tools.plan import course", {"plan.course"}),
        (("views", "table.py"), "from ..run import run_demo\nfrom ...shared import console", set()),
        (("views", "table.py"), "from ...plan.course import Course", {"plan.course.Course"}),
    ],
)
def test_the_search_finds_other_commands(parts: tuple[str, ...], source: str, found: set[str]) -> None:
    assert strangers("demo", parts, source) == found
