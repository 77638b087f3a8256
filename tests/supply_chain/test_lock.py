"""requirements.lock: each file that the gate installs has a version and a hash."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from audit import changed, installed, unlocked  # pyright: ignore[reportMissingImports] - the path is set above
from lock import LOCK, ROOT, canonical, pins  # pyright: ignore[reportMissingImports] - the path is set above

CONSTRAINTS = pins((ROOT / "constraints.txt").read_text("utf-8"))


def test_every_package_of_the_lock_has_hashes_and_the_version_of_constraints():
    lock = pins(LOCK.read_text("utf-8"))
    assert len(lock) > 100
    assert all(digest.startswith("sha256:") for _, hashes in lock.values() for digest in hashes)
    assert [name for name, (_, hashes) in lock.items() if not hashes] == []
    apart = {name: (lock.get(name, ("",))[0], version) for name, (version, _) in CONSTRAINTS.items() if name != "torch"}
    assert [f"{name}: {has} != {pinned}" for name, (has, pinned) in apart.items() if has != pinned] == []


def test_every_requirement_of_pyproject_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "mosaic" for line in lines]
    names = {canonical(line.partition(">")[0]) for line in [*project["dependencies"], *extras] if "[" not in line}
    assert names - set(pins(LOCK.read_text("utf-8"))) == {"torch"}


def test_what_is_installed_is_what_was_locked():
    assert list(unlocked(installed())) == []  # packages that were installed by hand since are found too


def test_a_package_of_another_version_a_package_more_and_a_changed_file_are_found(tmp_path, monkeypatch):
    for name, version in [("rich", "0.1"), ("unheard_of", "1.0"), ("nvidia-nvtx", "13.0")]:
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text(f"{name}.py,sha256=AAAA,4\n{name}_gone.py,sha256=AAAA,4\n")
        (tmp_path / f"{name}.py").write_text("evil")
    monkeypatch.syspath_prepend(tmp_path)
    found = installed()
    lines = list(unlocked(found))
    assert len(lines) == 2
    assert "rich 0.1 is installed, but locked is" in lines[0]
    assert lines[1] == "unheard-of 1.0 is installed, but is not locked"
    assert [line.partition("/")[2].rpartition("/")[2] for line in changed(found["rich"])] == [
        "rich.py was changed after it was installed",
        "rich_gone.py is missing",
    ]


@pytest.mark.parametrize(
    "line", ["six==1.17.0", "six==1.17.0 --hash=sha256:ab  # a comment", " six==1.17.0 \\\n  --hash=x"]
)
def test_pins_are_read_as_pip_reads_them(line):
    assert pins(line)["six"][0] == "1.17.0"
