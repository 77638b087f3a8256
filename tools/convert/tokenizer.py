"""Text → token ids. A tokenizer is described by a small picklable `TokenizerSpec`, and each worker loads it.

`bytes` needs no file: ids 0..255 are the bytes of the UTF-8 text, 256 ends a document. Any other tokenizer is a
`tokenizer.json` of Hugging Face's package `tokenizers`.

Invariant: text never becomes a special token, unless `--special-tokens parse` asks for it. A special token spelled out
in a document is tokenised as ordinary text, so a document cannot end itself or change the role. The tokenizer's
truncation, padding and templates are off; what stands around a document is `bos` and `eos` alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError

from ..shared.tokenizer_json import parse_for_text, parse_tokenizer, unmarked_tokens
from ..shared.tokenizer_json import special_tokens as special_tokens_of

TokenIds = NDArray[np.uint16] | NDArray[np.uint32]

_USUAL_EOS = (
    *("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "<EOS>", "[EOS]"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek's, with its wide bars
)
_SPELLED = ("<|endoftext|>", "<|end_of_text|>", "<|eos|>")
"""Special tokens of other tokenizers, for `bytes`."""
_SHOWN = 12
_MARKUP = re.compile(r"<.+>|\[.+\]")

SpecialTokens = Literal["text", "parse", "error"]
"""What a special token spelled out in a document is: letters, the token itself, or a fault of the document."""


class Tokenizer(Protocol):
    """Turns texts into ids."""

    cuts_anywhere: bool
    """Whether the ids of a text are those of its parts, wherever it is cut."""

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, without what stands around a document, in the dtype of the spec."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSpec:
    """What decides a tokenizer's output, and how to load it."""

    name: str
    vocab_size: int
    """One more than the greatest id."""
    eos: int
    """The id that ends every document."""
    hash: str
    """SHA-256 of the file; `bytes` for the bytes tokenizer."""
    path: str | None = None
    bos: int | None = None
    """The id that begins every document; None for none."""
    special_tokens: SpecialTokens = "text"
    words: tuple[str, ...] = ()
    """The special tokens as texts spell them."""
    unmarked: tuple[str, ...] = ()
    """Added tokens like `<think>` that the file does not mark as special: each is a token in every text."""
    puts_first: str | None = None
    """The token that the file's own template puts before a text."""

    @property
    def dtype(self) -> str:
        """The smaller of uint16 and uint32 that holds every id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    def describe(self) -> dict[str, Any]:
        """Its entry in index.json; two specs with equal entries are the same. What is not the default is named."""
        about = {"name": self.name, "vocab_size": self.vocab_size, "eos": self.eos, "hash": self.hash}
        about |= {} if self.bos is None else {"bos": self.bos}
        return about | ({} if self.special_tokens != "parse" else {"special_tokens": "parse"})

    def load(self) -> Tokenizer:
        """Load the tokenizer. Raises ConfigError if its file changed since it was described."""
        return ByteTokenizer() if self.path is None else _JsonTokenizer(self)


class ByteTokenizer:
    """The bytes of the text."""

    cuts_anywhere = True

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Bytes of each text as uint16."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) for text in texts]


class _JsonTokenizer:
    """A `tokenizers.Tokenizer`."""

    cuts_anywhere = False

    def __init__(self, spec: TokenizerSpec) -> None:
        content = Path(spec.path or "").read_bytes()
        if hashlib.sha256(content).hexdigest() != spec.hash:
            raise ConfigError(f"{spec.path}: the tokenizer changed while it was in use. Run the command again.")
        if spec.special_tokens == "parse":
            self._tokenizer = parse_tokenizer(content, spec.path)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        else:
            self._tokenizer = parse_for_text(content, spec.path)
        self._dtype = spec.dtype

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, self._dtype) for encoding in encodings]


def describe_tokenizer(
    name: str, eos: str | None = None, *, bos: str | None = None, special_tokens: SpecialTokens = "text"
) -> TokenizerSpec:
    """The spec of `bytes` or of a tokenizer.json (or the folder that holds one).

    Args:
        name: the value of `--tokenizer`.
        eos: the value of `--eos`: an id in digits, or a token; None looks for one of the usual names.
        bos: the value of `--bos`: the same; None for none.
        special_tokens: the value of `--special-tokens`.

    Raises:
        ConfigError: there is no such file or token, or the token that ends a document cannot be determined.
    """
    if name == "bytes":
        if eos not in {None, "256"}:
            raise ConfigError(f"--eos {eos}: the bytes tokenizer ends documents with 256; leave --eos out.")
        if bos is not None:
            raise ConfigError(f"--bos {bos}: the bytes tokenizer has no token for it; leave --bos out.")
        if special_tokens == "parse":
            raise ConfigError("--special-tokens parse: no text can spell a token of the bytes tokenizer; leave it out.")
        return TokenizerSpec(
            name="bytes", vocab_size=257, eos=256, hash="bytes", special_tokens=special_tokens, words=_SPELLED
        )
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"--tokenizer {name}: there is no file {path}. Give `bytes` or the path of a tokenizer.json "
            f"(`hf download MODEL tokenizer.json` fetches a model's)."
        ) from None
    tokenizer = parse_tokenizer(content, path)
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    special = special_tokens_of(tokenizer)
    return TokenizerSpec(
        name=path.resolve().parent.name if path.name == "tokenizer.json" else path.stem,
        vocab_size=max(vocabulary.values(), default=-1) + 1,
        eos=_find_eos(special, vocabulary, path) if eos is None else _find("eos", eos, special, vocabulary, path),
        hash=hashlib.sha256(content).hexdigest(),
        path=str(path.resolve()),
        bos=None if bos is None else _find("bos", bos, special, vocabulary, path),
        special_tokens=special_tokens,
        words=tuple(word for word in special if len(word) > 1),
        unmarked=tuple(word for word in unmarked_tokens(tokenizer) if _MARKUP.fullmatch(word)),
        puts_first=_puts_first(tokenizer, special),
    )


def _find(option: str, given: str, special: dict[str, int], vocabulary: dict[str, int], path: Path) -> int:
    """The id of a token that the user names, by its text or its number."""
    found = vocabulary.get(given)
    if found is None and given.isdecimal() and int(given) in set(vocabulary.values()):
        found = int(given)
    if found is None:
        near = get_close_matches(given, vocabulary, n=3, cutoff=0.75)
        hint = f" It has {', '.join(near)}." if near and not given.isdecimal() else ""
        last = max(vocabulary.values(), default=-1)
        raise ConfigError(
            f"--{option} {given}: {path} has no such token.{hint} Its special tokens are {_listed(special)}; ids end "
            f"at {last}."
        )
    return found


def _find_eos(special: dict[str, int], vocabulary: dict[str, int], path: Path) -> int:
    # Some vocabularies contain </s> as a piece of HTML: ordinary tokens count only if no special token has such a name.
    usual = [token for token in _USUAL_EOS if token in special] or [t for t in _USUAL_EOS if t in vocabulary]
    if len(usual) == 1:
        return vocabulary[usual[0]]
    if usual:
        raise ConfigError(
            f"{path} has several tokens that may end a document: {', '.join(usual)}. Choose: --eos {usual[0]}"
        )
    raise ConfigError(
        f"{path} has none of the usual tokens that end a document ({', '.join(_USUAL_EOS)}). Its special tokens are "
        f"{_listed(special)}. Name the one that ends a document: --eos ID or --eos TOKEN"
    )


def _listed(special: dict[str, int]) -> str:
    """`<s> (1), </s> (2)`."""
    shown = [f"{word} ({number})" for word, number in list(special.items())[:_SHOWN]]
    return (", ".join(shown) or "none") + (f" and {len(special) - _SHOWN} more" if len(special) > _SHOWN else "")


def _puts_first(tokenizer: Any, special: dict[str, int]) -> str | None:
    """The special token that the template of a tokenizer.json puts before a text; None for none."""
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    words = {number: word for word, number in special.items()}
    return words.get(ids[0]) if ids and ids[:1] != plain[:1] else None
