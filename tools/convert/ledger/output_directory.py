"""The output of a conversion as a directory: whether convert may write there, and what says that it does."""

from __future__ import annotations

from pathlib import Path

from mixstream.errors import ConfigError

from .durable import make_directory

OURS = ".convert"
LOCK = f"{OURS}/lock"


def create_output(out: Path) -> None:
    """Create the output directory.

    Raises:
        ConfigError: it is a file, or holds files of another program.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: it is a file. Give a directory, new or empty.")
    if not (out / OURS).is_dir() and out.is_dir():
        foreign = next((path for path in out.iterdir() if path.name != OURS), None)
        if foreign is not None and not (out / OURS).is_dir():  # another task may have begun in between
            raise ConfigError(
                f"--out {out}: it holds {foreign.name!r}, which convert did not write. Give a directory, new or empty."
            )
    make_directory(out / OURS)


def busy(out: Path) -> ConfigError:
    """Return the error that another run writes to the output."""
    path = out / LOCK
    holder = path.read_text(errors="replace")[:200] if path.exists() else ""
    return ConfigError(
        f"--out {out}: another `mixstream convert` is writing to it{f' ({holder})' if holder else ''}. Wait until it "
        "has ended."
    )
