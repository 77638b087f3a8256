"""The streams of a directory that holds several domains, as `mixstream convert` writes it."""

import os
import warnings
from typing import Any

from mixstream.argument_kinds import checked
from mixstream.arguments import real, whole
from mixstream.errors import ConfigError, IndexNotFoundError, StoreError, StoreNotFoundError, UnfinishedError
from mixstream.loader.stream import Stream
from mixstream.storage import (
    INDEX,
    LONGEST_TIMEOUT,
    Retry,
    absolute,
    domain_directory,
    domain_name,
    find_conversion,
    join,
    open_store,
    redact,
)


@checked
def streams(
    remote: str | os.PathLike[str],
    *,
    split: str = "train",
    local: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Stream]:
    """Return a stream for each domain below a directory: DIR/DOMAIN/SPLIT, and DIR/DOMAIN for domains without splits.

    >>> import tempfile
    >>> from mixstream import MDSWriter
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for domain in ("web", "code"):
    ...         with MDSWriter(columns={"x": "int"}, out=f"{root}/{domain}/train") as writer:
    ...             writer.write({"x": 1})
    ...     [stream.name for stream in streams(root, split="train")]
    ['code', 'web']

    Args:
        remote: the directory above the domains: a path or a URL; the --out of `mixstream convert`.
        split: which dataset of each domain.
        local: directory for their caches; each domain has its own below it.
        options: further arguments of every `Stream`, such as `selection` or `max_epochs`.

    Returns:
        Streams named after their domains, sorted by name.

    Raises:
        UnfinishedError: the conversion, or one of the datasets, is not finished.
        IndexNotFoundError: there is no dataset.
        ConfigError: an argument is not one of `Stream`'s, or `remote` is itself a dataset.
        StoreError: the store cannot be read.
    """
    place = absolute(remote, "remote")
    caches = None if local is None else absolute(local, "local")
    if taken := {"name", "remote"} & options.keys():
        raise ConfigError(f"streams() names each stream after its domain: leave out {', '.join(sorted(taken))}")
    attempts, timeout = options.get("download_retry"), options.get("download_timeout")
    retry = Retry(
        attempts=2 if attempts is None else whole("download_retry", attempts, least=0, of="attempts"),
        timeout=60.0
        if timeout is None
        else real("download_timeout", timeout, above=0, of="seconds", advice=f"give at most {LONGEST_TIMEOUT}"),
    )
    domains = _domains(place, split, retry)
    if "" in domains:
        raise ConfigError(f"{redact(place)} is a dataset, not a directory of several: write Stream(remote=...)")
    if not domains:
        raise IndexNotFoundError(
            f"{redact(place)} has no domain with the split {split!r}: give the directory above the domains, which is "
            "the --out of `mixstream convert`, or another split; for token files, write Stream(remote=...)"
        )
    return [
        Stream(
            remote=join(place, directory),
            local=None if caches is None else join(caches, directory),
            split=below,
            name=domain_name(directory),
            **options,
        )
        for directory, below in sorted(domains.items(), key=lambda item: domain_name(item[0]))
    ]


def _converted(place: str, split: str, timeout: float) -> dict[str, str]:
    """Return the directories of the domains of a conversion, if `place` is the root of one, each with `split`."""
    found = find_conversion(place, timeout=timeout, above=0)
    if found is None:
        return {}
    if found.unfinished:
        raise UnfinishedError(found.unfinished)
    domains = {domain_directory(name): split for name, splits in found.domains.items() if split in splits}
    if lacking := sorted(name for name in found.domains if domain_directory(name) not in domains):
        if not domains:
            known = sorted({each for splits in found.domains.values() for each in splits})
            raise IndexNotFoundError(f"{found.root} has no split {split!r}; it has {known}")
        _warn_of_lacking(found.root, lacking, split)
    return domains


def _domains(place: str, split: str, retry: Retry) -> dict[str, str]:
    """Return the directories of domains, each with that of its dataset below it; "" if `place` is itself a dataset."""
    converted = _converted(place, split, retry.timeout)
    domains = dict(converted)
    store = open_store(place, timeout=retry.timeout)
    try:
        names = retry.call(f"listing {store.url}", store.names, renew=store.renew)
    except StoreNotFoundError:
        raise IndexNotFoundError(f"{redact(place)}: there is no such directory; check its spelling") from None
    except StoreError:
        if not domains:  # plain http has no listing; without domains.json nothing says what there is
            raise
        return domains
    indexes = {name.rpartition("/")[0] for name in names if name == INDEX or name.endswith(f"/{INDEX}")}
    if {"", split} & indexes:
        return {"": ""}
    shards = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2].startswith("shard.")}
    for directory in sorted(indexes | shards):
        domain, _, below = directory.partition("/")
        if below not in ("", split) or domain.startswith(".") or (not below and f"{domain}/{split}" in indexes):
            continue
        if directory not in indexes:
            raise UnfinishedError(
                f"{redact(join(place, directory))}: unfinished, there are shards but no {INDEX}; run the program that "
                "writes it again, or remove them"
            )
        domains[domain] = below
    parts = (directory.split("/") for directory in indexes)
    others = sorted({each[0] for each in parts if len(each) == 2 and each[0][:1] != "."} - domains.keys())
    if domains and others and not converted:
        _warn_of_lacking(redact(place), [domain_name(directory) for directory in others], split)
    return domains


def _warn_of_lacking(place: str, names: list[str], split: str) -> None:
    warnings.warn(f"{place}: the domains {names} have no rows in the split {split!r}", stacklevel=4)
