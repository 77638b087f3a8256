"""The domains that a command works on: datasets at URLs, each with a name.

Rule: the name is the one that `Stream(name=...)` has, since artefacts lie at DIR/<name>. `NAME=URL` says it; else it is
the directory of a dataset below URL, without its split, as `mixstream convert` writes them: DIR/<name>/<split>.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixstream.errors import ConfigError, StoreError
from mixstream.formats import Index, Options, TokenFiles, token_stem
from mixstream.formats.columns import Columns
from mixstream.storage import Retry, is_local, join, local_path, open_store, place_of, redact

from .datasets import find_datasets, refuse_unfinished

_NAMED = re.compile(r"([^\x00-\x1f/:=\\]+)=(.+)", re.DOTALL)
_SPLITS = ("train", "val")  # as `mixstream convert` names them
_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f\\/:*?\"<>|#]{1,200}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedDataset:
    """One domain.

    Attributes:
        name: of the domain.
        url: of the dataset, as storage opens it.
        index: its shards.
    """

    name: str
    url: str
    index: Index | TokenFiles | Columns

    @property
    def about(self) -> Mapping[str, Any]:
        """What `mixstream convert` says of it; empty if another program wrote the index."""
        about = self.index.extra.get("mixstream")
        return about if isinstance(about, dict) else {}


def find_domains(
    urls: Sequence[str], *, split: str = "train", retry: Retry | None = None, options: Options | None = None
) -> list[NamedDataset]:
    """Return the domains at `urls`, in their order and for each URL by name.

    Args:
        urls: each a dataset, or a directory above several; or NAME=URL, which is one dataset (or has it as `split`).
        split: which of the datasets of a domain; those without splits are taken too.
        retry: attempts and timeout of each request.
        options: how token files are read; None for commands that read none.

    Raises:
        ConfigError: there is none, or two have one name.
        IndexCorruptError, StoreError: an index cannot be read.
        UnfinishedError: one of them, or the conversion, is not finished.
    """
    if not urls:
        raise ConfigError("no URL is given: name the directory of a dataset, or a directory above several")
    found = [each for url in urls for each in _at(url, split, retry or Retry(knobs=("", "")), options)]
    names = [each.name for each in found]
    if twice := sorted({name for at, name in enumerate(names) if name in names[:at]}):
        places = " and ".join(redact(each.url) for each in found if each.name == twice[0])
        raise ConfigError(f"two domains are called {twice[0]!r}: {places}; name one of them otherwise: NAME=URL")
    return found


def _at(given: str, split: str, retry: Retry, options: Options | None) -> list[NamedDataset]:
    named = _NAMED.fullmatch(given)
    name, url = (named[1], named[2]) if named else (None, given)
    found = find_datasets([url], retry, list_files=False, options=options)[0]
    refuse_unfinished(found)
    datasets = {each.name: each for each in found}
    above = open_store(url).url
    if len(datasets) == 1 and (only := next(iter(datasets.values()))).store.url == above:
        return [_named(only, url, name or _own_name(only, url, split))]
    if split in datasets:  # the directory of a domain
        return [_named(datasets[split], join(url, split), name or _own_name(datasets[split], join(url, split), split))]
    by_domain = {}
    for each in datasets.values():
        if each.name in _SPLITS:
            continue
        domain = each.name.removesuffix(f"/{split}")
        if "/" not in domain and (domain not in by_domain or domain != each.name):
            by_domain[domain] = each
    if name is not None and len(by_domain) == 1:
        (each,) = by_domain.values()
        return [_named(each, join(url, each.name), name)]
    if name is not None or not by_domain:
        raise ConfigError(
            f"{redact(url)} has the datasets {sorted(datasets)[:8]}: "
            + (f"{name} names one; give its own URL" if name else f"none is DOMAIN/{split}; give another --split")
        )
    return [_named(each, join(url, each.name), domain) for domain, each in sorted(by_domain.items())]


def _own_name(dataset: Any, url: str, split: str) -> str:
    """Return the name of a domain whose dataset was given itself."""
    said = dataset.about.get("domain")
    if isinstance(said, str) and _NAME.fullmatch(said):
        return said
    parts = [part for part in re.split(r"[/\\]", place_of(url).partition("?")[0]) if part not in ("", ".")]
    if len(parts) > 1 and parts[-1] == split:
        parts.pop()
    return token_stem(parts[-1]) if parts else "domain"


def _named(dataset: Any, url: str, name: str) -> NamedDataset:
    if dataset.trouble is not None:
        if not isinstance(dataset.trouble, StoreError):  # its message names the URL already
            dataset.trouble.add_note(f"while reading the index of {dataset.store.url}")
        raise dataset.trouble
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of a directory; name the domain otherwise, as in web=URL")
    # absolute, since a worker elsewhere, or a later command, has another current directory
    index = dataset.index if dataset.tokens is None else dataset.tokens.domain.container
    return NamedDataset(name=name, url=str(local_path(url).absolute()) if is_local(url) else url, index=index)
