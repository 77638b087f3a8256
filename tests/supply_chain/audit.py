"""`make audit`: is what is installed what was locked, and does it have known vulnerabilities?

    python tests/supply_chain/audit.py

Without a network it compares each installed package with requirements.lock, each installed file with the hash that
its package recorded, and each requirement with what is there. Then pip-audit asks its database of advisories. If that
does not answer, the last line says that advisories were not checked. Exit status 1 if anything was found.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from lock import CUDA, LOCK, ROOT, canonical, pins  # pyright: ignore[reportMissingImports] - the path is set above

OURS = {"mixstream-data", "pip", "setuptools"}  # the last two come with a new environment


def installed() -> dict[str, Distribution]:
    """Return the packages of this environment but ours, by name."""
    found: dict[str, Distribution] = {}
    for one in distributions():  # the first on the path is the one that is imported
        found.setdefault(canonical(one.metadata["Name"]), one)
    return {name: one for name, one in sorted(found.items()) if name not in OURS}


def unlocked(found: dict[str, Distribution]) -> Iterator[str]:
    """Say which packages are not those of the lock, or of constraints.txt: torch, whose libraries for GPUs are free."""
    lock = pins((ROOT / "constraints.txt").read_text("utf-8")) | pins(LOCK.read_text("utf-8"))
    for name, one in found.items():
        if name not in lock:
            if not name.startswith(CUDA):
                yield f"{name} {one.version} is installed, but is not locked"
        elif (version := one.version.partition("+")[0]) != lock[name][0]:
            yield f"{name} {version} is installed, but locked is {lock[name][0]}"


def changed(one: Distribution) -> Iterator[str]:
    """Say which files of a package are not those that were installed."""
    for file in one.files or ():
        if file.hash is None or file.hash.mode != "sha256":
            continue
        path = Path(str(one.locate_file(file)))
        if not path.exists():
            yield f"{one.metadata['Name']}: {path} is missing"
            continue
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            yield f"{one.metadata['Name']}: {path} was changed after it was installed"


def advisories() -> tuple[list[str], str]:
    """Ask pip-audit, in an environment of its own; return what it found, and how much it could look up."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        got = subprocess.run([f"{place}/bin/python", "-m", "pip", "install", "--quiet", "pip-audit"], check=False)
        if got.returncode:
            return [], "not checked: pip-audit cannot be installed here"
        command = [f"{place}/bin/pip-audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
        done = subprocess.run([*command, "-r", str(LOCK)], check=False, capture_output=True, text=True, timeout=600)
    lines = done.stdout.splitlines()
    skipped = sum("could not be audited" in line for line in lines)
    total = len(pins(LOCK.read_text("utf-8")))
    if skipped >= total or (done.returncode and not lines):
        return [], "not checked: the database of advisories does not answer here"
    found = [line for line in lines if line and "could not be audited" not in line] if done.returncode else []
    return found, f"{total - skipped} of {total} packages looked up"


def main() -> int:
    """Run all checks; return the exit status."""
    found = installed()
    faults = [*unlocked(found), *(line for one in found.values() for line in changed(one))]
    pip = subprocess.run([sys.executable, "-m", "pip", "check"], check=False, capture_output=True, text=True)
    faults += pip.stdout.splitlines() if pip.returncode else []
    more, looked_up = advisories()
    last = f"{len(found)} packages compared with {LOCK.name}; advisories {looked_up}"
    sys.stdout.write("".join(f"{line}\n" for line in [*faults, *more, last]))
    return 1 if faults or more else 0


if __name__ == "__main__":
    sys.exit(main())
