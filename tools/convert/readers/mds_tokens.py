"""Documents of a dataset of tokens, as text: with the tokenizer that made the tokens.

Which tokens are a document is in mds_documents.py. Text whose tokens would not be the same again is bad, as where the
rows of a dataset are not in the order in which they were cut.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.documents import Documents
from mixstream.errors import ConfigError

from ...shared.token_texts import TokenizerFile
from ..tokens.from_tokenizer import FromTokenizer
from .mds_dataset import MdsDataset
from .mds_documents import Ids, by_end, by_sidecar, rows_of
from .reader import Columns, OnBad, Record, Records

_UNSURE = "\ufffd"


def read_token_documents(dataset: MdsDataset, first: int, end: int, columns: Columns, on_bad: OnBad) -> Records:
    """Yield the documents whose first token lies in samples `first` to `end - 1`; returns their number."""
    decode = _Decoder(dataset)
    sidecar = Documents.of(dataset.store, dataset.about)
    if sidecar is not None:
        found = by_sidecar(dataset, sidecar, (first, end), columns, on_bad)
    elif dataset.about.get("row_kind") == "documents":
        found = ((row, ids, {}) for row, ids in rows_of(dataset, first, end, on_bad))
    else:
        found = ((at, ids, {}) for at, ids in by_end(dataset, decode.eos, (first, end), on_bad))
    count = 0
    for number, ids, more in found:
        count += 1
        try:
            text = decode(ids)
        except ValueError as error:
            on_bad(f"{dataset.file.path}, document {number}: {error}", record=number)
            continue
        yield Record({**more, "text": text}, number)
    return count


class _Decoder:
    """Tokens of a document → its text, without what stands around it."""

    def __init__(self, dataset: MdsDataset) -> None:
        about = dataset.about.get("tokenizer")
        about = about if isinstance(about, dict) else {}
        given = dataset.file.choice.decoder if dataset.file.choice is not None else None
        eos = about.get("eos", given.eos if given is not None else None)
        file = _tokenizer_of(dataset, about, given)
        self.eos: int = -1 if eos is None else eos
        self._bos = about.get("bos")
        self._first = given.puts_first if given is not None and not about else ""
        self._text = file.load(end="", special=True)
        self._load_encoder = file.load_encoder
        self._encode: Callable[[str], NDArray[np.integer]] | None = None

    def __call__(self, ids: Ids) -> str:
        """Raises ValueError if the text is not the one that was encoded."""
        if self._bos is not None and len(ids) and ids[0] == self._bos:
            ids = ids[1:]
        if len(ids) and ids[-1] == self.eos:
            ids = ids[:-1]
        text = self._text(ids.tolist()).removeprefix(self._first)
        if _UNSURE in text:  # tokens of a part of a character; or the text itself has it
            self._encode = self._encode or self._load_encoder()
            if not np.array_equal(self._encode(text), ids):
                raise ValueError("its tokens are no text: they end or begin inside a character")
        return text


def _tokenizer_of(dataset: MdsDataset, about: dict[str, Any], given: FromTokenizer | None) -> TokenizerFile:
    """The tokenizer that made a dataset's tokens: the one given, or a copy of it beside the dataset, by its hash."""
    made, where = about.get("hash"), dataset.file.path
    if given is not None:
        if made is not None and made != given.hash:
            raise ConfigError(
                f"--from-tokenizer {given.name} (hash {given.hash[:16]}): {where} was made with {about.get('name')!r} "
                f"(hash {str(made)[:16]}), so its text would be wrong. Give the tokenizer that it was made with."
            )
        return TokenizerFile.find(given.name)
    if made == "bytes":
        return TokenizerFile.find("bytes")
    for directory in list(Path(where).parents)[:4]:
        copy = directory / "tokenizer"
        if made is not None and copy.is_dir():
            found = TokenizerFile.find(str(copy))
            if found.hash == made:
                return found
    known = (
        f"was tokenised with {about['name']!r}" if "name" in about else "does not say which tokenizer made its tokens"
    )
    raise ConfigError(f"{where} {known}: give that tokenizer with --from-tokenizer, to read its text.")
