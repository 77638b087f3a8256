"""`mixstream select verify`: whether a selection or scores are whole, and fit a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from mixstream.errors import ConfigError, MixstreamError, SelectionError
from mixstream.formats import hash_hex
from mixstream.selection import DomainRows, Scores, Selection, fingerprint, read_keys
from mixstream.storage import redact

from ..shared.artefacts import is_kind, places_of
from ..shared.console import Console, table
from ..shared.options import Flag, Json, Reading
from ..shared.safe_text import message_of
from .key import KEY
from .texts import datasets_by_name

Advance = Callable[[int], None]


def verify(
    source: Annotated[str, Parameter(name="SEL|SCORES")],
    url: Annotated[str | None, Parameter(name="URL")] = None,
    /,
    *,
    full: Flag = False,
    reading: Reading = Reading(),  # noqa: B008  # frozen
    as_json: Json = False,
) -> int:
    """Check that artefacts are whole, and fit the dataset at URL.

    mixstream select verify sel/top20
    mixstream select verify sel/top20 s3://corpus/web
    mixstream select verify scores/dsdm shards/web --full

    CHECKS. Every file against its hash, every row against its shard. With URL:
    that each shard is in the index as it was, by hash or by name, rows and
    size; and of shards of which rows are kept, that their header is the one
    that was read, which says how long each row is. --full also compares the
    shards' bytes with the hashes that were recorded, and the column `key`, if
    scores have one, with the content of every row.

    Headers are read from shards, so shards at a remote URL are downloaded to
    the cache; without URL nothing is downloaded.

    Exit status: 0 no faults, 1 faults, 2 wrong use.

    Args:
        source: a selection or scores, or a directory with one for each domain.
        url: the dataset, or a directory above several.
        full: compare contents, too.
        as_json: print one JSON document, not tables.
    """
    if full and url is None:
        raise ConfigError("--full compares the contents of shards: give the URL of the dataset")
    console = Console(as_json=as_json)
    kind = "selection" if is_kind(source, "selection") else "scores"
    places = places_of(source, kind)
    datasets = datasets_by_name(url, list(places), reading=reading) if url is not None else {}
    documents = []
    for name, place in places.items():
        document: dict[str, Any] = {"domain": name, "path": redact(place), "faults": []}
        try:
            artefact = Selection.open(place) if kind == "selection" else Scores.open(place)
            artefact.verify()
            dataset = datasets.get(name)
            rows = None if dataset is None else reading.open(dataset.url, name=dataset.name)
            check = _Check(artefact, rows, full=full)
            document |= {"id": artefact.id, "rows": artefact.table.rows, "shards": len(artefact.table.shards)}
            with console.progress("verify", total=check.total, unit="rows") as advance:
                document["faults"] = list(check.run(advance))
            document |= {"headers": check.headers, "contents": check.contents}
        except SelectionError as error:
            document["faults"] = [message_of(error)]
        documents.append(document)
    faults = [[each["domain"], fault] for each in documents for fault in each["faults"]]
    checked = [
        [each["domain"], *(each.get(key, 0) for key in ("rows", "shards", "headers", "contents")), len(each["faults"])]
        for each in documents
    ]
    document = {"status": "faults" if faults else "ok", "kind": kind, "domains": documents}
    shown = [table(["domain", "rows", "shards", "headers read", "contents read", "faults"], checked)]
    if faults:
        shown.append(table(["domain", "fault"], faults))
    console.result(document, *shown)
    return 1 if faults else 0


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """A shard of the dataset, and which one of the artefact it is."""

    number: int
    listed: int
    samples: int


class _Check:
    """Compares an artefact with a dataset.

    Attributes:
        headers: how many shards' headers were compared.
        contents: how many shards' contents were compared.
    """

    def __init__(self, artefact: Scores | Selection, rows: DomainRows | None, *, full: bool) -> None:
        self._artefact, self._full, self._rows = artefact, full, rows
        self.headers = self.contents = 0
        self._match = None if self._rows is None else artefact.table.match(self._rows.domain.shards)
        self._shards = list(self._to_read())
        self.total = sum(shard.samples for shard in self._shards)

    def run(self, advance: Advance) -> Iterator[str]:
        """Yield the faults."""
        if self._rows is None or self._match is None:
            return
        table_of = self._artefact.table
        for number, expected, found in self._match.changed:
            yield f"shard {number} of the dataset is {found}, and was {expected}"
        for number in self._match.missing:
            yield f"the dataset lacks the shard {table_of.shards[number]}"
        unlisted = set(np.flatnonzero(self._match.of_S < 0).tolist()) - {each[0] for each in self._match.changed}
        for number in sorted(unlisted):
            yield f"the dataset has a shard that was not known: {self._rows.table.shards[number]}"
        for shard in self._shards:
            try:
                yield from self._read(shard)
            except ConfigError:
                raise
            except (MixstreamError, OSError) as error:
                yield message_of(error)
            advance(shard.samples)

    def _to_read(self) -> Iterator[_Shard]:
        """Yield the shards whose header, or with `full` whose content, is known."""
        if self._match is None:
            return
        kept_S = self._artefact.counts_SK.sum(axis=1) if isinstance(self._artefact, Selection) else None
        for number, listed in enumerate(self._match.of_S.tolist()):
            if listed < 0 or (kept_S is not None and not kept_S[listed]):
                continue
            identity = self._artefact.table.shards[listed]
            if identity.fingerprint is not None or self._full:
                yield _Shard(number=number, listed=listed, samples=identity.samples)

    def _read(self, shard: _Shard) -> Iterator[str]:
        assert self._rows is not None
        identity = self._artefact.table.shards[shard.listed]
        data = self._rows.domain.map(shard.number)
        if identity.fingerprint is not None:
            self.headers += 1
            found = fingerprint(self._rows.domain.container, shard.number, data)
            if found != identity.fingerprint:
                yield (
                    f"shard {identity.name!r} was rewritten: the fingerprint of its header is {found}, and was "
                    f"{identity.fingerprint}, so its rows are other rows"
                )
                return
        if self._full:
            self.contents += 1
            yield from self._compare_hashes(identity.name, identity.hashes, data)
            yield from self._compare_keys(shard)

    def _compare_hashes(self, name: str, hashes: Any, data: Any) -> Iterator[str]:
        for algorithm, expected in sorted(hashes.items()):
            if (found := hash_hex(algorithm, np.ascontiguousarray(data).data)) != expected:
                yield f"shard {name!r}: its {algorithm} is {found}, and was {expected}"

    def _compare_keys(self, shard: _Shard) -> Iterator[str]:
        scores = self._artefact
        if not isinstance(scores, Scores) or KEY not in scores.columns or self._rows is None:
            return
        of = _of(scores)
        stored, scored_N = scores.column(KEY), scores.flags
        shift = int(scores.table.start_S[shard.listed]) - int(self._rows.table.start_S[shard.number])
        blocks = read_keys(self._rows, column=of, text_hash=of is not None, first=shard.number, end=shard.number + 1)
        for begin, keys in blocks:
            at = begin + shift
            differs_B = (stored[at : at + len(keys)] != keys.key_B) & ((scored_N[at : at + len(keys)] & 1) > 0)
            if differs_B.any():
                name = scores.table.shards[shard.listed].name
                row = at + int(np.argmax(differs_B)) - int(scores.table.start_S[shard.listed])
                yield f"row {row:,} of shard {name!r} has another content than its key says"
                return


def _of(scores: Scores) -> str | None:
    inputs = scores.made.get("inputs")
    of = inputs.get("of") if isinstance(inputs, dict) else None
    return of if isinstance(of, str) else None
