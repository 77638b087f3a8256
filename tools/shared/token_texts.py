"""Token ids → text, with the tokenizer that a dataset was made with: to show a few tokens, or to embed many rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError

from .tokenizers import BYTES, TokenizerSource, find_tokenizer
from .tokenizers.byte_values import text_of_bytes

ToText = Callable[[Sequence[int]], str]

__all__ = ["BYTES", "ToText", "TokenizerFile", "text_of_bytes", "tokenizer_of"]

_BYTES = find_tokenizer(BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFile:
    """A tokenizer that the user named, or that a dataset names; picklable.

    Args:
        path: of its main file; None for the tokenizer `bytes`.
        hash: sha256 of the file, or `bytes`: as `mixstream convert` records it in the index.
        source: what is on disk.
    """

    path: str | None
    hash: str
    source: TokenizerSource = field(default=_BYTES, repr=False)

    @classmethod
    def find(cls, name: str) -> TokenizerFile:
        """Return the tokenizer of an option: see `find_tokenizer`.

        Raises:
            ConfigError: there is no such file.
        """
        source = find_tokenizer(name)
        return cls(path=source.path, hash=source.hash, source=source)

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
        return partial(self.source.load().decode, special=special)

    def load_counter(self) -> Callable[[Sequence[str]], NDArray[np.int64]]:
        """Return the function that counts the tokens of texts, int64 [texts]; the end of a document is one more.

        Raises:
            ConfigError: the file cannot be read, or has changed.
        """
        tokenizer = self.source.load()
        return lambda texts: np.array([len(ids) + 1 for ids in tokenizer.encode(texts)], dtype=np.int64)

    def load_encoder(self) -> Callable[[str], NDArray[np.integer]]:
        """Return the function that returns the tokens of a text, without special ones; text never becomes one.

        Raises:
            ConfigError: the file cannot be read, or has changed.
        """
        tokenizer = self.source.load()
        return lambda text: tokenizer.encode([text])[0].astype(np.int64)


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
        raise ConfigError(
            f"domain {domain!r} {known}: give that tokenizer.json with --tokenizer, to read its "
            "text; convert keeps a copy of every tokenizer in OUT/tokenizer"
        )
    if digest is not None and digest != given.hash:
        raise ConfigError(
            f"--tokenizer {given.path or BYTES} (hash {given.hash[:16]}): domain {domain!r} was made with {name!r} "
            f"(hash {str(digest)[:16]}), so its text would be wrong. Give the tokenizer.json that the dataset was made "
            "with"
        )
    return given
