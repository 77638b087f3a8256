"""The wheel: pyproject.toml lists packages one by one, and a package that is not listed is missing from it."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = []
    for package, directory in setuptools["package-dir"].items():
        top = ROOT / directory
        folders = {file.parent.relative_to(top).parts for file in top.rglob("*.py")}
        assert all((top.joinpath(*parts) / "__init__.py").is_file() for parts in folders)
        found += [".".join([package, *parts]) for parts in folders]
    assert sorted(setuptools["packages"]) == sorted(found)
    assert set(setuptools["package-dir"].values()) == {"mixstream", "tools", "examples"}
