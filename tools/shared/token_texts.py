"""Token ids → text, with the tokenizer that a dataset was made with: to show a few tokens, or to embed many rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError

from .tokenizer_json import parse_for_text, parse_tokenizer

ToText = Callable[[Sequence[int]], str]
BYTES = "bytes"
_END = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFile:
    """A tokenizer that the user named, or that a dataset names; picklable.

    Args:
        path: of a tokenizer.json; None for the tokenizer `bytes`.
        hash: sha256 of the file, or `bytes`: as `mixstream convert` records it in the index.
    """

    path: str | None
    hash: str

    @classmethod
    def find(cls, name: str) -> TokenizerFile:
        """Return the tokenizer of an option: `bytes`, or the path of a tokenizer.json or of its directory.

        Raises:
            ConfigError: there is no such file.
        """
        if name == BYTES:
            return cls(path=None, hash=BYTES)
        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        return cls(path=str(path.absolute()), hash=hashlib.sha256(_read(path, name)).hexdigest())

    def load(self, *, end: str = "\n", special: bool = False) -> ToText:
        """Return the function that turns the tokens of a row into its text.

        Args:
            end: what the tokenizer `bytes` puts where a document ends.
            special: whether other tokenizers show special tokens.

        Raises:
            ConfigError: the file cannot be read, or has changed.
        """
        if self.path is None:
            return partial(text_of_bytes, end=end)
        tokenizer = self._parsed(self.path)

        def read(ids: Sequence[int]) -> str:
            known = np.asarray(ids)
            return tokenizer.decode(known[known >= 0].tolist(), skip_special_tokens=not special)

        return read

    def load_counter(self) -> Callable[[Sequence[str]], NDArray[np.int64]]:
        """Return the function that counts the tokens of texts, int64 [texts]; the end of a document is one more.

        Raises:
            ConfigError: the file cannot be read, or has changed.
        """
        if self.path is None:
            return lambda texts: np.array([len(text.encode()) + 1 for text in texts], dtype=np.int64)
        tokenizer = self._parsed(self.path, parse_for_text)

        def count(texts: Sequence[str]) -> NDArray[np.int64]:
            encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return np.array([len(each.ids) + 1 for each in encoded], dtype=np.int64)

        return count

    def load_encoder(self) -> Callable[[str], NDArray[np.integer]]:
        """Return the function that returns the tokens of a text, without special ones; text never becomes one.

        Raises:
            ConfigError: the file cannot be read, or has changed.
        """
        if self.path is None:
            return lambda text: np.frombuffer(text.encode(), np.uint8)
        tokenizer = self._parsed(self.path, parse_for_text)
        return lambda text: np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def _parsed(self, path: str, parse: Callable[[bytes, object], Any] = parse_tokenizer) -> Any:
        content = _read(Path(path), path)
        if hashlib.sha256(content).hexdigest() != self.hash:
            raise ConfigError(f"{path} has changed since this command began; run it again")
        return parse(content, path)


def tokenizer_of(about: Mapping[str, Any], given: TokenizerFile | None, *, domain: str) -> TokenizerFile:
    """Return the tokenizer to read a dataset's tokens with.

    Args:
        about: what `mixstream convert` says of the dataset in its index; empty if another program wrote it.
        given: the user's `--tokenizer`.
        domain: name of the dataset, for errors.

    Raises:
        ConfigError: it is unknown, or `given` is another one than the dataset was made with.
    """
    made_with = about.get("tokenizer")
    made_with = made_with if isinstance(made_with, dict) else {}
    name, digest = made_with.get("name"), made_with.get("hash")
    if given is None:
        if digest == BYTES:
            return TokenizerFile(path=None, hash=BYTES)
        known = f"was tokenised with {name!r}" if name else "does not say which tokenizer made its tokens"
        raise ConfigError(f"domain {domain!r} {known}: give that tokenizer.json with --tokenizer, to read its text")
    if digest is not None and digest != given.hash:
        raise ConfigError(
            f"--tokenizer {given.path or BYTES} (hash {given.hash[:16]}): domain {domain!r} was made with {name!r} "
            f"(hash {str(digest)[:16]}), so its text would be wrong. Give the tokenizer.json that the dataset was made "
            "with"
        )
    return given


def text_of_bytes(ids: Sequence[int], *, end: str = "\n") -> str:
    """Return the text of ids of the bytes tokenizer: UTF-8, and 256 after each document, shown as `end`."""
    known = np.asarray(ids).astype(np.int64)
    shown = np.where((known < 0) | (known > 255), 255, known).astype(np.uint8)  # 255 is in no UTF-8: it becomes U+FFFD
    documents = np.split(shown, np.flatnonzero(known == _END))
    parts = [documents[0], *(each[1:] for each in documents[1:])]
    return end.join(part.tobytes().decode(errors="replace") for part in parts)


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--tokenizer {name}: {path} cannot be read ({error.strerror}); give `bytes` or a tokenizer.json"
        ) from None
