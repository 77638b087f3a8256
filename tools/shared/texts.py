"""Token ids → text, to show people a few tokens of a sample.

The tokenizer is the one that the user names. Without it, `bytes` needs no file, and of others the copy that convert put
beside the datasets is fetched: by the names and hashes in the card, and only if it is the one that the index names.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mixstream.errors import MixstreamError, StoreError
from mixstream.storage import Retry, Store

from .cards import TOKENIZER, Card
from .safe_text import message_of
from .shards import read_bytes
from .token_texts import BYTES, TokenizerFile, ToText, text_of_bytes

_END = "<end>"
_NAME = re.compile(r"(?!\.)[\w.@ -]+", re.ASCII)
_MOST_FILES, _MOST_BYTES = 16, 256 << 20


class Texts:
    """Chooses how the tokens of a dataset are shown as text.

    Args:
        name: the value of `--tokenizer`: `bytes`, the path of a tokenizer.json (or of its folder), or None.

    Raises:
        ConfigError: there is no such tokenizer.
    """

    def __init__(self, name: str | None) -> None:
        self.notes: list[str] = []
        self._digest = ""
        self._given: ToText | None = None
        self._is_copy = False
        self._special: dict[int, str] = {}
        if name is not None:
            self._use(TokenizerFile.find(name))

    def _use(self, found: TokenizerFile) -> None:
        self._given, self._digest = found.load(end=_END, special=True), found.hash
        self._special = {number: word for word, number in found.source.vocabulary().special.items()}

    def fetch_copy(self, store: Store, card: Card, retry: Retry, *, wanted: str) -> None:
        """Read tokens with the copy of the tokenizer in `store`, if its hash is `wanted` and the user named no other.

        A copy that cannot be used is noted; then tokens are shown as numbers.
        """
        names = card.tokenizer_files
        if self._given is not None or not names or wanted == BYTES:
            return
        if len(names) > _MOST_FILES or not all(map(_NAME.fullmatch, names)):
            self.notes.append(f"the tokenizer's copy in {store.url} is not read: its files have strange names")
            return
        try:
            with tempfile.TemporaryDirectory(prefix="mixstream-") as scratch:
                left = _MOST_BYTES
                for name, digest in names.items():
                    left -= store.info(f"{TOKENIZER}/{name}").size
                    if left < 0:
                        raise StoreError(f"it has more than {_MOST_BYTES >> 20} MiB")
                    data = read_bytes(store, f"{TOKENIZER}/{name}", None, retry)
                    if hashlib.sha256(data).hexdigest() != digest:
                        raise StoreError(f"{name} is not the file that the card names")
                    (Path(scratch) / name).write_bytes(data)
                found = TokenizerFile.find(scratch)
                if found.hash == wanted:
                    self._use(found)
                    self._is_copy = True
        except (MixstreamError, OSError) as error:
            self.notes.append(f"the tokenizer's copy in {store.url} is not read: {message_of(error)}")

    def reader(self, about: Mapping[str, Any]) -> ToText | None:
        """Return the function that shows the tokens of a dataset, whose `about` is given; None if none is known."""
        digest = _made_with(about).get("hash")
        if self._given is None or (self._is_copy and digest != self._digest):
            return partial(text_of_bytes, end=_END) if digest == BYTES else None
        if digest is not None and digest != self._digest:
            name = _made_with(about).get("name")
            note = f"--tokenizer is not the one that {about.get('domain')} was converted with, {name}"
            self.notes.append(f"{note}: its text will be wrong")
        return self._given

    def special(self, about: Mapping[str, Any]) -> dict[int, str]:
        """Return the tokens of a dataset that are no text, with their names."""
        made_with = _made_with(about)
        ends: dict[int, str] = {}
        for role in ("eos", "bos"):
            with suppress(KeyError, TypeError, ValueError):
                ends[int(made_with[role])] = {"eos": "end", "bos": "begin"}[role]
        return ends if self._is_copy and made_with.get("hash") != self._digest else {**ends, **self._special}


def _made_with(about: Mapping[str, Any]) -> Mapping[str, Any]:
    found = about.get("tokenizer")
    return found if isinstance(found, dict) else {}
