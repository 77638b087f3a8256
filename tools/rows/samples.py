"""What a sample is: its shard, the documents in it, and its beginning as text. Values are data, and stay data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
import numpy as np

from mixstream.documents import Documents
from mixstream.errors import MixstreamError, StoreError
from mixstream.storage import Retry, domain_directory, open_store

from ..shared.cards import CARD, read_card
from ..shared.domains import NamedDataset
from ..shared.safe_text import message_of, shortened
from ..shared.shards import read_bytes
from ..shared.texts import Texts, ToText

_TOKENS = "tokens"
_IDS_PER_CHARACTER = 2  # ids that are turned into text for each character that is shown


def _packed_rows(domain: Any) -> Any:
    """Return the rows of each shard of a domain that is packed, whose rows are not those of the sidecar; else None."""
    return getattr(domain.container, "rows_S", None)


class Samples:
    """Describes samples of some domains.

    Args:
        domains: of the run, as `mixstream.loader.open_domains` returns them.
        datasets: stream -> the dataset.
        texts: how tokens become text; None for no text.
        chars: characters of text that are shown.

    Attributes:
        notes: what could not be read beside the samples.
    """

    def __init__(self, domains: Any, datasets: Mapping[str, NamedDataset], *, texts: Texts | None, chars: int) -> None:
        self._domains, self._datasets, self._texts, self._chars = domains, datasets, texts, chars
        self._retry = Retry(knobs=("", ""))
        self._own_notes: list[str] = []
        self._documents = cache(self._open_documents)
        self._first_rows = cache(self._count_rows)
        self._to_text = cache(self._reader)

    @property
    def notes(self) -> list[str]:
        """What could not be read beside the samples."""
        return [*self._own_notes, *(self._texts.notes if self._texts is not None else ())]

    def number(self, shard: int, row: int) -> int:
        """Return the number of a row in its dataset; `shard` is counted over all domains."""
        domain, number = self._domains.home(shard)
        return int(self._first_rows(domain.name)[number]) + row

    def find(self, name: str, number: int) -> tuple[int, int]:
        """Return the shard, counted over all domains, and the row of sample `number` of the stream `name`.

        Raises:
            IndexError: it has no such sample.
        """
        first_S = self._first_rows(name)
        if not 0 <= number < first_S[-1]:
            raise IndexError(f"domain {name!r} has {first_S[-1]:,} samples, numbered from 0")
        at = int(np.searchsorted(first_S, number, side="right")) - 1
        offset = next(
            int(offset)
            for domain, offset in zip(self._domains, self._domains.shard_offset_K.tolist())
            if (domain.whole or domain).name == name
        )
        return offset + at, number - int(first_S[at])

    def describe(self, shard: int, row: int) -> dict[str, Any]:
        """Return what a row is: its dataset's stream, number, shard and row, its documents, and its text."""
        domain, at = self._domains.home(shard)
        number = self.number(shard, row)
        found: dict[str, Any] = {"sample": number, "shard": domain.shards[at].raw.basename, "row_in_shard": row}
        if _packed_rows(domain) is None and (documents := self._documents(domain.name)) is not None:
            found["documents"] = self._documents_of(documents, number)
        if self._texts is not None:
            try:
                found["text"] = self._text(domain.name, self._domains.sample(shard, row))
            except MixstreamError as error:
                found |= {"text": None, "trouble": message_of(error)}
        return found

    def _count_rows(self, name: str) -> Any:
        whole = next((d.whole or d) for d in self._domains if (d.whole or d).name == name)
        rows_S = _packed_rows(whole)
        rows_S = [shard.samples for shard in whole.shards] if rows_S is None else rows_S
        return np.concatenate([[0], np.cumsum(rows_S)]).astype(np.int64)

    # --- documents ------------------------------------------------------------------------------------------------

    def _open_documents(self, name: str) -> Documents | None:
        try:
            found = self._datasets[name]
            return Documents.of(open_store(found.url, timeout=self._retry.timeout), found.about, retry=self._retry)
        except MixstreamError as error:
            self._own_notes.append(f"the documents of {name!r} are not read: {message_of(error)}")
            return None

    def _documents_of(self, documents: Documents, number: int) -> list[str]:
        """Return the ids of the documents with tokens in a row, in order."""
        try:
            table = documents.lines(number, number + 1, ["id"])
        except (MixstreamError, OSError) as error:
            self._own_notes.append(f"the documents of a row are not read: {message_of(error)}")
            return []
        if not table.num_rows:
            return []
        tokens, ids = table["tokens"].to_pylist(), table["id"].to_pylist()
        kept = [each for each, size in zip(ids, tokens) if size or documents.seq_len is None]
        return list(dict.fromkeys(kept))

    # --- text -----------------------------------------------------------------------------------------------------

    def _text(self, name: str, sample: Mapping[str, Any]) -> str:
        tokens = sample.get(_TOKENS)
        if isinstance(tokens, np.ndarray) and tokens.dtype.kind in "iu" and tokens.ndim == 1:
            ids = tokens[: self._chars * _IDS_PER_CHARACTER].tolist()
            if (to_text := self._to_text(name)) is None:
                return shortened(" ".join(map(str, ids)), self._chars)
            return shortened(to_text(ids), self._chars)
        words = next((value for value in sample.values() if isinstance(value, str)), None)
        return shortened(str(dict(sample)) if words is None else words, self._chars)

    def _reader(self, name: str) -> ToText | None:
        assert self._texts is not None
        about = self._datasets[name].about
        made = about.get("tokenizer")
        if isinstance(made, dict) and isinstance(made.get("hash"), str):
            self._fetch_copy(self._datasets[name], about, made["hash"])
        if (found := self._texts.reader(about)) is None:
            self._own_notes.append(
                f"the tokenizer of {name!r} is not known, so its tokens are shown as numbers: give --tokenizer"
            )
        return found

    def _fetch_copy(self, dataset: NamedDataset, about: Mapping[str, Any], wanted: str) -> None:
        """Let `texts` use the copy of the tokenizer that convert put beside the datasets, if there is one."""
        assert self._texts is not None
        url = dataset.url.rstrip("/")
        domain, split = about.get("domain"), about.get("split")
        place = f"/{domain_directory(str(domain))}/{split}"
        if not url.endswith(place):
            return
        store = open_store(url.removesuffix(place), timeout=self._retry.timeout)
        try:
            card = read_card(read_bytes(store, CARD, None, self._retry))
        except (StoreError, ValueError, msgspec.MsgspecError):
            return
        if card is not None:
            self._texts.fetch_copy(store, card, self._retry, wanted=wanted)
