"""Token ids → text, to show people a few tokens of a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

from ..shared.tokenizer_json import parse_tokenizer

ToText = Callable[[Sequence[int]], str]
_END = 256
_SHOWN_END = "<end>"


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
        if name == "bytes":
            self._given, self._digest = text_of_bytes, "bytes"
        elif name is not None:
            self._given, self._digest = _load(name)

    def reader(self, about: Mapping[str, Any]) -> ToText | None:
        """Return the function that shows the tokens of a dataset, whose `about` is given; None if none is known."""
        made_with = about.get("tokenizer")
        made_with = made_with if isinstance(made_with, dict) else {}
        digest = made_with.get("hash")
        if self._given is None:
            return text_of_bytes if digest == "bytes" else None
        if digest is not None and digest != self._digest:
            note = f"--tokenizer is not the one that {about.get('domain')} was converted with, {made_with.get('name')}"
            self.notes.append(f"{note}: its text will be wrong")
        return self._given


def text_of_bytes(ids: Sequence[int]) -> str:
    """Return the text of ids of the bytes tokenizer: UTF-8, and 256 after each document."""
    parts: list[bytearray] = [bytearray()]
    for number in ids:
        if number == _END:
            parts.append(bytearray())
        elif 0 <= number < _END:
            parts[-1].append(number)
        else:
            parts[-1] += "\ufffd".encode()
    return _SHOWN_END.join(part.decode(errors="replace") for part in parts)


def _load(name: str) -> tuple[ToText, str]:
    path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--tokenizer {name}: {path} cannot be read ({error.strerror}); give `bytes` or a tokenizer.json"
        ) from None
    tokenizer = parse_tokenizer(content, path)

    def read(ids: Sequence[int]) -> str:
        known = [number for number in ids if 0 <= number < 1 << 32]
        return tokenizer.decode(known, skip_special_tokens=False)

    return read, hashlib.sha256(content).hexdigest()
