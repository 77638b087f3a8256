"""Token ids → text, for people: what a few tokens of a sample say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

ToText = Callable[[Sequence[int]], str]
_END = 256
_SHOWN_END = "<end>"


class Texts:
    """How tokens of datasets are shown as text.

    Args:
        name: what `--tokenizer` was given: `bytes`, the path of a tokenizer.json (or of its folder), or None.

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
        """Return what reads the tokens of a dataset, of which convert says `about`; None if nothing is known."""
        made_with = about.get("tokenizer")
        made_with = made_with if isinstance(made_with, dict) else {}
        digest = made_with.get("hash")
        if self._given is None:
            return text_of_bytes if digest == "bytes" else None
        if digest is not None and digest != self._digest:
            note = f"--tokenizer is not the one that {about.get('domain')} was made with, {made_with.get('name')}"
            self.notes.append(f"{note}: its text will be wrong")
        return self._given


def text_of_bytes(ids: Sequence[int]) -> str:
    """Return the text of ids of the bytes tokenizer: UTF-8, and 256 behind each document."""
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
        import tokenizers

        content = path.read_bytes()
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except ModuleNotFoundError:
        raise ConfigError(
            f"--tokenizer {name}: the package `tokenizers` is not installed. Run: pip install tokenizers"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"--tokenizer {name}: {path} cannot be read ({error.strerror}); give `bytes` or a tokenizer.json"
        ) from None
    except Exception as error:  # the Rust side raises plain Exception
        raise ConfigError(f"{path}: not a tokenizer.json that `tokenizers` can read: {error}") from error

    def read(ids: Sequence[int]) -> str:
        known = [number for number in ids if 0 <= number < 1 << 32]
        return tokenizer.decode(known, skip_special_tokens=False)

    return read, hashlib.sha256(content).hexdigest()
