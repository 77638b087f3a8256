"""Text → token ids. A tokenizer is described by a small picklable `TokenizerSpec`, and each worker loads it.

Which kinds there are: `shared/tokenizers/`. Here is what a conversion adds: the tokens that begin and end a document.
What stands around a document is `bos` and `eos` alone, whatever the tokenizer does by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

from ...shared.tokenizers import SpecialTokens, TokenIds, Tokenizer, TokenizerSource, Vocabulary, find_tokenizer

__all__ = ["SpecialTokens", "TokenIds", "Tokenizer", "TokenizerSpec", "describe_tokenizer"]

_USUAL_EOS = (
    *("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "<EOS>", "[EOS]"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek's, with its wide bars
)
_SPELLED = ("<|endoftext|>", "<|end_of_text|>", "<|eos|>")
"""Special tokens of other tokenizers, for `bytes`."""
_SHOWN = 12
_MARKUP = re.compile(r"<.+>|\[.+\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSpec:
    """What decides a tokenizer's output, and how to load it."""

    source: TokenizerSource
    vocab_size: int
    """One more than the greatest id."""
    eos: int | None
    """The id that ends every document; None for none."""
    bos: int | None = None
    """The id that begins every document; None for none."""
    special_tokens: SpecialTokens = "text"
    words: tuple[str, ...] = ()
    """The special tokens as texts spell them."""
    unmarked: tuple[str, ...] = ()
    """Added tokens like `<think>` that the file does not mark as special: each is a token in every text."""
    puts_first: str | None = None
    """The token that the tokenizer itself puts before a text."""
    notes: tuple[str, ...] = ()
    """What the user should know of the choice of tokens."""

    @property
    def name(self) -> str:
        """What people call the tokenizer."""
        return self.source.name

    @property
    def hash(self) -> str:
        """SHA-256 of the file; `bytes` for the bytes tokenizer."""
        return self.source.hash

    @property
    def path(self) -> str | None:
        """The tokenizer's main file; None for `bytes`."""
        return self.source.path

    @property
    def dtype(self) -> str:
        """The smaller of uint16 and uint32 that holds every id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    def describe(self) -> dict[str, Any]:
        """Its entry in index.json; two specs with equal entries are the same. What is not the default is named."""
        about = {"name": self.name, "vocab_size": self.vocab_size, "eos": self.eos, "hash": self.hash}
        about |= {} if self.bos is None else {"bos": self.bos}
        about |= {} if self.special_tokens != "parse" else {"special_tokens": "parse"}
        if self.source.kind in {"bytes", "tokenizer.json"}:
            return about
        about |= {"kind": self.source.kind, "files": {file.name: file.hash for file in self.source.files}}
        if self.special_tokens == "parse":  # their ids come from elsewhere than the files
            special = json.dumps(sorted([*self.source.special, *self.source.added]))
            about["special_ids"] = hashlib.sha256(special.encode()).hexdigest()
        return about

    def load(self) -> Tokenizer:
        """Load the tokenizer. Raises ConfigError if its file changed since it was described."""
        return self.source.load(self.special_tokens, self.dtype)

    def copy_to(self, directory: Path) -> None:
        """Write the tokenizer's files, with a description, into `directory`: as --tokenizer, it is this tokenizer.

        `bytes` has none.

        Raises:
            ConfigError: a file changed since it was described.
        """
        self.source.copy_to(directory)


def describe_tokenizer(
    name: str, eos: str | None = None, *, bos: str | None = None, special_tokens: SpecialTokens = "text"
) -> TokenizerSpec:
    """The spec of a tokenizer on disk, or of `bytes`.

    Args:
        name: the value of `--tokenizer`.
        eos: the value of `--eos`: an id in digits, or a token; `none` for no token; None or `auto` looks for one of
            the usual names, then takes the one that the tokenizer's files name.
        bos: the value of `--bos`: an id or a token; None or `none` for no token; `auto` for the one that the tokenizer
            itself puts before a text, if it does.
        special_tokens: the value of `--special-tokens`.

    Raises:
        ConfigError: there is no such file or token, or the token that ends a document cannot be determined.
    """
    source = find_tokenizer(name)
    if source.path is None:
        return _bytes(source, eos, bos, special_tokens)
    vocabulary = source.vocabulary()
    notes: list[str] = []
    if eos is None or eos == "auto":
        end: int | None = _find_eos(vocabulary, source.path, notes)
    else:
        end = None if eos == "none" else _find("eos", eos, vocabulary, source.path)
    if bos == "auto":
        bos = vocabulary.puts_first
    return TokenizerSpec(
        source=source,
        vocab_size=vocabulary.size,
        eos=end,
        bos=None if bos is None or bos == "none" else _find("bos", bos, vocabulary, source.path),
        special_tokens=special_tokens,
        words=tuple(word for word in vocabulary.special if len(word) > 1),
        unmarked=tuple(word for word in vocabulary.unmarked if _MARKUP.fullmatch(word)),
        puts_first=vocabulary.puts_first,
        notes=tuple(notes),
    )


def _bytes(source: TokenizerSource, eos: str | None, bos: str | None, special_tokens: SpecialTokens) -> TokenizerSpec:
    if eos not in {None, "256", "auto", "none"}:
        raise ConfigError(f"--eos {eos}: the bytes tokenizer ends documents with 256; leave --eos out.")
    if bos not in {None, "none", "auto"}:
        raise ConfigError(f"--bos {bos}: the bytes tokenizer has no token for it; leave --bos out.")
    if special_tokens == "parse":
        raise ConfigError("--special-tokens parse: no text can spell a token of the bytes tokenizer; leave it out.")
    end = None if eos == "none" else 256
    return TokenizerSpec(source=source, vocab_size=257, eos=end, special_tokens=special_tokens, words=_SPELLED)


def _find(option: str, given: str, vocabulary: Vocabulary, path: str) -> int:
    """The id of a token that the user names, by its text or its number."""
    found = vocabulary.find(given)
    if found is None:
        near = get_close_matches(given, [*vocabulary.special, *vocabulary.ids], n=3, cutoff=0.75)
        hint = f" It has {', '.join(dict.fromkeys(near))}." if near and not given.isdecimal() else ""
        raise ConfigError(
            f"--{option} {given}: {path} has no such token.{hint} Its special tokens are "
            f"{_listed(vocabulary.special)}; ids end at {vocabulary.size - 1}."
        )
    return found


def _find_eos(vocabulary: Vocabulary, path: str, notes: list[str]) -> int:
    """The id of the token that ends a document; a note is added if the files name another one."""
    # Some vocabularies contain </s> as a piece of HTML: ordinary tokens count only if no special token has such a name.
    special, ids = vocabulary.special, {**vocabulary.ids, **vocabulary.special}
    usual = [token for token in _USUAL_EOS if token in special] or [t for t in _USUAL_EOS if t in ids]
    named = vocabulary.eos if vocabulary.eos in ids else None
    if len(usual) == 1:
        if named not in {None, usual[0]}:
            # Of chat models: it ends a turn there. In pretraining the usual token ended the documents.
            notes.append(
                f"documents end with {usual[0]}; the tokenizer's files name {named} as the end of a text: "
                f"--eos '{named}' takes that"
            )
        return ids[usual[0]]
    if named is not None and (not usual or named in usual):
        return ids[named]
    if usual:
        raise ConfigError(
            f"{path} has several tokens that may end a document: {', '.join(usual)}. Choose: --eos {usual[0]}"
        )
    raise ConfigError(
        f"{path} has none of the usual tokens that end a document ({', '.join(_USUAL_EOS)}). Its special tokens are "
        f"{_listed(special)}. Name the one that ends a document: --eos ID or --eos TOKEN, or --eos none"
    )


def _listed(special: Mapping[str, int]) -> str:
    """`<s> (1), </s> (2)`."""
    shown = [f"{word} ({number})" for word, number in list(special.items())[:_SHOWN]]
    return (", ".join(shown) or "none") + (f" and {len(special) - _SHOWN} more" if len(special) > _SHOWN else "")
