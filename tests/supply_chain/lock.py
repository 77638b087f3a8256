"""`make lock`: write requirements.lock, the versions of constraints.txt and all that they need, with the files' hashes.

    python tests/supply_chain/lock.py

pip refuses a file with another hash. The versions are those for Python 3.11; each has the hashes of its files for all
platforms. torch is left out: it has a build for each kind of device, which pip chooses by what the machine offers.
constraints.txt pins its version.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LOCK = ROOT / "requirements.lock"
HEADER = "# Written by `make lock` from pyproject.toml and constraints.txt: what `make` installs, but for torch.\n"


CUDA = ("nvidia-", "cuda-", "triton")
"""How the names of torch's libraries for GPUs begin."""


def canonical(name: str) -> str:
    """Return the name of a distribution as the index writes it: "PyYAML" and "pyyaml" are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, tuple[str, list[str]]]:
    """Return the version and the hashes of each distribution that a file of requirements pins.

    >>> pins("Six==1.17.0 \\\\\\n    --hash=sha256:ab \\\\\\n    --hash=sha256:cd\\n")
    {'six': ('1.17.0', ['sha256:ab', 'sha256:cd'])}
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for line in re.sub(r"#.*", "", text).replace("\\\n", " ").splitlines():
        if match := re.match(r"\s*([A-Za-z0-9._-]+)==(\S+)", line):
            found[canonical(match[1])] = (match[2], re.findall(r"--hash=(\S+)", line))
    return found


def main() -> None:
    """Write the lock with the newest uv, which gets an environment of its own."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([f"{place}/bin/python", "-m", "pip", "install", "--quiet", "uv"], check=True)
        command = [f"{place}/bin/uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
        options = ["--python-version", "3.11", "--extra", "dev", "--constraints", "constraints.txt"]
        if "PIP_FIND_LINKS" in os.environ:  # where a machine keeps a torch that needs no CUDA
            options += ["--find-links", os.environ["PIP_FIND_LINKS"]]
        options += ["--no-emit-package", "torch", "pyproject.toml"]
        done = subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    cuda = [name for name in pins(done.stdout) if name.startswith(CUDA)]
    if cuda:
        sys.exit(f"torch brought {', '.join(cuda)}: put its CPU build into a directory and name it in PIP_FIND_LINKS")
    LOCK.write_text(HEADER + done.stdout, "utf-8")
    sys.stdout.write(f"{LOCK.name}: {len(pins(done.stdout))} packages\n")


if __name__ == "__main__":
    main()
