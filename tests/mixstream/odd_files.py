"""Files of odd kinds, in places where others belong."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def make_socket(path: Path) -> None:
    """Put a socket at a path."""
    before = Path.cwd()
    os.chdir(path.parent)  # the whole path would be too long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)
