"""Data cards of datasets whose rows another command writes into other shards, or joins: what stays true of them.

A dataset that is made of one keeps its card, with the new number of shards. One that is joined of several has none:
which of its documents are copies of each other is not known. The card of an output names both kinds, and keeps the
counts of what was left out; the files that list it stay where they are. The copy of the tokenizer goes along.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from mixstream.errors import StoreError
from mixstream.storage import Retry, Store, open_store

from .cards import CARD, TOKENIZER, VERSION, Card, DatasetCard, dump_card, read_card, read_dataset_card
from .datasets import Dataset
from .output_job import inside
from .shards import read_bytes

Made = tuple[str, Sequence[Dataset], Mapping[str, Any]]
"""A new dataset: its name below the output, what it is made of, and the entry of convert in its index."""
AnyCard = TypeVar("AnyCard", Card, DatasetCard)
_FILE = re.compile(r"(?!\.)[\w.@ -]+", re.ASCII)


def carry_cards(made: Sequence[Made], retry: Retry) -> dict[str, bytes]:
    """Return the files of cards for an output of these datasets, by name; to be written before its indexes."""
    files: dict[str, bytes] = {}
    kept: list[DatasetCard] = []
    without: list[tuple[str, str]] = []
    wholes = _wholes(made, retry)
    shown = {(card.domain, card.split): card for _, whole in wholes for card in whole.datasets}
    for name, members, about in made:
        card = _read(members[0].store, read_dataset_card, retry) if len(members) == 1 else None
        if card is not None and card.matches(members[0].about):
            card = msgspec.structs.replace(card, shards=about["shards"])
            files[inside(name, CARD)] = dump_card(card)
            in_whole = shown.get((card.domain, card.split))
            kept.append(card.without_samples() if in_whole is not None and not in_whole.samples else card)
        elif "domain" in about:
            without.append((str(about["domain"]), str(about.get("split"))))
    if not kept or not wholes or "" in {name for name, _, _ in made}:
        return files
    copies = next(filter(None, (_copies(store, whole, retry) for store, whole in wholes)), {})
    files |= {f"{TOKENIZER}/{name}": data for name, data in copies.items()}
    card = Card(
        version=VERSION,
        datasets=tuple(kept),
        without=tuple(without),
        rejects=_rejects([whole.rejects for _, whole in wholes]),
        tokenizer_files={name: hashlib.sha256(data).hexdigest() for name, data in copies.items()},
    )
    return {**files, CARD: dump_card(card)}


def stale_cards(names: Iterable[str], read: Callable[[str], bytes | None], wanted: Iterable[str]) -> set[str]:
    """Return which of an output's objects are of a card that was there before, and are not `wanted`.

    Args:
        names: of all objects.
        read: an object.
        wanted: what is there in the end.
    """
    there = {*names}
    try:
        card = read_card(read(CARD) or b"") if CARD in there else None
    except ValueError:
        return set()  # of another program, or the card of one dataset
    mine = {CARD, *(f"{TOKENIZER}/{name}" for name in card.tokenizer_files)} if card is not None else set()
    return (mine & there) - {*wanted}


def _wholes(made: Sequence[Made], retry: Retry) -> list[tuple[Store, Card]]:
    """The cards of the outputs that the datasets lie in."""
    places = dict.fromkeys(
        member.store.url.removesuffix(f"/{name}") for name, members, _ in made if name for member in members
    )
    stores = [open_store(place, timeout=retry.timeout) for place in places]
    return [(store, card) for store in stores if (card := _read(store, read_card, retry)) is not None]


def _read(store: Store, parse: Callable[[bytes], AnyCard | None], retry: Retry) -> AnyCard | None:
    try:
        return parse(read_bytes(store, CARD, None, retry))
    except (StoreError, ValueError):  # there is none, or it is of another program
        return None


def _copies(store: Store, card: Card, retry: Retry) -> dict[str, bytes]:
    """The files of the copy of the tokenizer; none if one of them is not what the card names."""
    copies: dict[str, bytes] = {}
    for name, digest in card.tokenizer_files.items():
        try:
            copies[name] = read_bytes(store, f"{TOKENIZER}/{name}", None, retry) if _FILE.fullmatch(name) else b""
        except StoreError:
            return {}
        if hashlib.sha256(copies[name]).hexdigest() != digest:
            return {}
    return copies


def _rejects(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"documents": sum(rejects.get("documents", 0) for rejects in each), "examples": []}
    for key in ("reasons", "left_out"):
        counts = sum((Counter(rejects.get(key, {})) for rejects in each), Counter[str]())
        found |= {key: dict(sorted(counts.items()))} if counts else {}
    return found
