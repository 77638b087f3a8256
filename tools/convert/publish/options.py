"""The options of convert that say where the work for a store is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.storage import check_writable, is_local, local_path, open_store

from ...shared.console import Console
from ..panels import OUTPUT
from .remote import Remote, default_work

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
TOPICS = """STORES. With --out s3://BUCKET/CORPUS (gs://, az://, or another URL that
fsspec supports) the shards are first written to a local directory, --work,
which needs space for all of them. Then the shards are uploaded in parallel,
then each index, and domains.json last. The default of --work is a directory
below ~/.cache (or $XDG_CACHE_HOME), the same for the same --out. Its shards
are removed after the upload, unless --keep-work is given; the files that a
restart needs stay. AWS credentials are found as boto3 finds them.

RESTARTS. After an interruption or a kill, the same command resumes. If the
output is complete, nothing is done. An object that the store has in its
full size is not uploaded again. Until all is done, other commands say
"unfinished".

FURTHER DOMAINS. A command with other sources and the same options adds
their domains to --out. A domain that is there, of other options or changed
sources, is refused; --overwrite rebuilds it. Domains that no SRC names
stay; --remove DOMAIN removes one.
"""
"""What the help of the command says of them."""


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOptions:
    """Where the work for a store is done. As a parameter of a command, its fields are options.

    Args:
        work: with --out URL: local directory for the work; default: one below ~/.cache for each --out.
        keep_work: with --out URL: keep the shards in --work after the upload.
    """

    work: Path | None = None
    keep_work: _Flag = False

    def place(self, out: str, console: Console) -> tuple[Path, Remote | None]:
        """The work directory, and the store to upload to, if there is one."""
        if not out.strip():
            raise ConfigError("--out is empty: give a directory, or a URL.")
        if is_local(out):
            if self.work is not None or self.keep_work:
                option = "--keep-work" if self.work is None else "--work"
                raise ConfigError(f"{option} is for --out URL; the local --out {out} is its own work directory.")
            return local_path(out), None
        check_writable(out)
        directory = default_work(out) if self.work is None else self.work
        console.note(
            f"work directory: {directory} (choose with --work)" if self.work is None else f"work directory: {self.work}"
        )
        return directory, Remote(store=open_store(out), keep_work=self.keep_work)
