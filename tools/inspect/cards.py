"""The data cards of datasets, as far as they describe the state that the indexes describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from mixstream.errors import StoreError
from mixstream.storage import Retry, Store, domain_directory, open_store

from ..shared.cards import CARD, Card, DatasetCard, read_card, read_dataset_card
from ..shared.datasets import Dataset
from ..shared.parallel import in_parallel
from ..shared.shards import read_bytes

_AT_ONCE = 8
_MOST = 64
"""Without a card of all datasets, so many are asked for their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cards:
    """What was found.

    Attributes:
        whole: the card of an output, with the store that it lies in; None if there is none.
        store: of `whole`.
        of: the cards of datasets, by number of the dataset.
        notes: what is strange.
    """

    whole: Card | None = None
    store: Store | None = None
    of: Mapping[int, DatasetCard] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_cards(datasets: Sequence[Dataset], retry: Retry) -> Cards:
    """Return the cards of datasets; one that is missing or damaged is no fault.

    The card of an output has those of all its datasets, so one request is enough for any number of them.
    """
    converted = [at for at, dataset in enumerate(datasets) if dataset.about]
    if not converted:
        return Cards()
    notes: list[str] = []
    outputs = {_output_of(datasets[at]) for at in converted}
    place = outputs.pop() if len(outputs) == 1 else None
    store = None if place is None else open_store(place, timeout=retry.timeout)
    whole = None if store is None else _read(store, read_card, retry, notes)
    if whole is not None:
        each = {(card.domain, card.split): card for card in whole.datasets}
        found = {at: card for at in converted if (card := each.get(_key(datasets[at].about))) is not None}
    else:

        def own(at: int) -> DatasetCard | None:
            return _read(datasets[at].store, read_dataset_card, retry, notes)

        with closing(in_parallel(own, converted[:_MOST], workers=_AT_ONCE)) as opened:
            found = {at: card for at, card in opened if card is not None}
    fresh = {at: card for at, card in found.items() if card.matches(datasets[at].about)}
    if len(fresh) < len(found):
        notes.append("some cards are of another state of their datasets than the indexes, and are not shown")
    return Cards(whole=whole, store=store, of=fresh, notes=tuple(dict.fromkeys(notes)))


def _key(about: Mapping[str, Any]) -> tuple[Any, Any]:
    return about.get("domain"), about.get("split")


def _output_of(dataset: Dataset) -> str | None:
    """The URL of the output that a dataset is in, if it lies where convert puts it."""
    domain, split = _key(dataset.about)
    if not (isinstance(domain, str) and isinstance(split, str) and domain):
        return None
    place = f"/{domain_directory(domain)}/{split}"
    return dataset.store.url.removesuffix(place) if dataset.store.url.endswith(place) else None


def _read(store: Store, parse: Callable[[bytes], Any], retry: Retry, notes: list[str]) -> Any:
    try:
        found = parse(read_bytes(store, CARD, None, retry))
    except StoreError:
        return None
    except ValueError:
        notes.append(f"{store.url}/{CARD} is no card of convert, and is ignored")
        return None
    if found is None:
        notes.append(f"{store.url}/{CARD} is of a later version of mixstream, and is ignored")
    return found
