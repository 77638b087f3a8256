"""Token ids → text, to show people a few tokens of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..shared.token_texts import BYTES, TokenizerFile, ToText, text_of_bytes

_END = "<end>"


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
        if name is not None:
            found = TokenizerFile.find(name)
            self._given, self._digest = found.load(end=_END, special=True), found.hash

    def reader(self, about: Mapping[str, Any]) -> ToText | None:
        """Return the function that shows the tokens of a dataset, whose `about` is given; None if none is known."""
        made_with = about.get("tokenizer")
        made_with = made_with if isinstance(made_with, dict) else {}
        digest = made_with.get("hash")
        if self._given is None:
            return partial(text_of_bytes, end=_END) if digest == BYTES else None
        if digest is not None and digest != self._digest:
            note = f"--tokenizer is not the one that {about.get('domain')} was converted with, {made_with.get('name')}"
            self.notes.append(f"{note}: its text will be wrong")
        return self._given
