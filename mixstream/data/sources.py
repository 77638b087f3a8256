"""Which domains read the same files: buckets of one stream, or streams of one dataset with different selections.

Domains that read the same files have one *source*. Its shards are mapped, fetched, evicted and set aside once for all
of them.

Shape suffixes: F sources, K domains, S shards of one source.
"""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mixstream.data.domain import Domain


def find_sources(domains: Sequence[Domain]) -> tuple[int, ...]:
    """Return the source of each domain, numbered from 0 as they first appear.

    Files are the same if their place, their index and the way they are checked and kept are.
    """
    places = [(d.files.directory, d.files.original, d.validate_hash, d.files.keep_compressed) for d in domains]
    indexes: dict[Hashable, set[int]] = {}
    for place, domain in zip(places, domains):
        indexes.setdefault(place, set()).add(id(domain.container))
    known: dict[Hashable, int] = {}
    found = []
    for place, domain in zip(places, domains):
        version = domain.fingerprint if len(indexes[place]) > 1 else ""  # it may have changed between two reads
        found.append(known.setdefault((place, version), len(known)))
    return tuple(found)


def first_of_each(domains: Iterable[Domain], source_K: Iterable[int]) -> tuple[Domain, ...]:
    """Return the first domain of each source; of buckets, the domain of which they are parts."""
    first: dict[int, Domain] = {}
    for f, domain in zip(source_K, domains):
        first.setdefault(f, domain.whole or domain)
    return tuple(first.values())


def used_shards(domains: Sequence[Domain], source_K: Sequence[int]) -> tuple[NDArray[np.bool_], ...]:
    """Return which shards of each source have samples that count, bool [S]; the others are never fetched."""
    used: dict[int, NDArray[np.bool_]] = {}
    for f, domain in zip(source_K, domains):
        used[f] = used.get(f, False) | (domain.samples_S > 0)
    return tuple(used.values())


def header_checks(domains: Sequence[Domain], source_K: Sequence[int]) -> list[list[Domain]]:
    """Return, of each source, one domain for each table of headers that its shards must have."""
    tables: dict[int, dict[Hashable, Domain]] = {}
    for f, domain in zip(source_K, domains):
        table = tables.setdefault(f, {})
        rows = domain.kept or domain.packed
        if rows is not None and rows.header_S is not None:
            table.setdefault(tuple(rows.header_S), domain)
    return [list(table.values()) for table in tables.values()]
