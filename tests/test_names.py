"""The names: PyPI's `mixstream` is another project, so no text may tell a user to install a package of that name."""

import re
from importlib.metadata import distribution, requires, version
from pathlib import Path

import pytest

import mixstream

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("mixstream", "tools", "bench", "examples") for path in (ROOT / name).rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "docs").glob("*.md"))]

# A string may go on in the next line of the source: `"… Run: pip "` + `"install x"`.
JOINED = re.compile(r"""["']\s*\n\s*[rf]?["']""")
# `pip install mixstream`, in any quotes and with any options before it, or an extra of a package of that name.
OF_PYPI = re.compile(
    r"(pip|uv|pipx)\b[^\n]*\b(install|add)\b[^\n]*[ \t'\"`]mixstream(?![\w./-])|\bmixstream(-data)?\[\w"
)


def faults(text: str) -> list[str]:
    return [found.group() for found in OF_PYPI.finditer(JOINED.sub("", text))]


@pytest.mark.parametrize(
    "text",
    [
        "pip install mixstream",
        "Run: pip install 'mixstream[tokenizers]'",
        "python -m pip install -U mixstream[images]",
        '"is not installed: "\n        "pip install "\n        f"mixstream"',
        "(extra `mixstream[report]`)",
        "mixstream-data[report]",
        "uv add mixstream",
    ],
)
def test_the_search_finds(text: str) -> None:
    assert faults(text)


@pytest.mark.parametrize(
    "text", ["pip install tokenizers", "pip install '.[report]'", "batch_mixstream[0]", "python -m mixstream_tools.cli"]
)
def test_the_search_leaves(text: str) -> None:
    assert not faults(text)


def test_no_text_names_the_package_of_pypi() -> None:
    found = {path.relative_to(ROOT).as_posix(): faults(path.read_text()) for path in [*SOURCES, *PAGES]}
    assert len(found) > 100
    assert not {path: what for path, what in found.items() if what}, (
        "name the package that is missing, as in `pip install tokenizers`"
    )


def test_the_distribution() -> None:
    assert version("mixstream-data") == mixstream.__version__
    assert not [line for line in requires("mixstream-data") or () if re.match(r"mixstream(?!-data)", line)]
    (command,) = distribution("mixstream-data").entry_points.select(group="console_scripts")
    assert command.name == "mixstream"
    assert command.value == "mixstream_tools.cli:run"
