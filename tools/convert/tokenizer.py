"""Text → token ids. A tokenizer is described by a small picklable `TokenizerSpec`, and each worker loads it.

`bytes` needs no file: ids 0..255 are the bytes of the UTF-8 text, 256 ends a document. Any other tokenizer is a
`tokenizer.json` of Hugging Face's package `tokenizers`.

Invariant: text never becomes a special token. A special token spelled out in a document is tokenised as ordinary text,
so a document cannot end itself or change the role. The tokenizer's truncation, padding and templates are off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError

from ..shared.tokenizer_json import parse_tokenizer

TokenIds = NDArray[np.uint16] | NDArray[np.uint32]

_USUAL_EOS = (
    *("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "<EOS>", "[EOS]"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek's, with its wide bars
)


class Tokenizer(Protocol):
    """Turns texts into ids."""

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, without special tokens, in the dtype of the spec."""
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

    @property
    def dtype(self) -> str:
        """The smaller of uint16 and uint32 that holds every id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    def describe(self) -> dict[str, Any]:
        """Its entry in index.json; two specs with equal entries are the same."""
        return {"name": self.name, "vocab_size": self.vocab_size, "eos": self.eos, "hash": self.hash}

    def load(self) -> Tokenizer:
        """Load the tokenizer. Raises ConfigError if its file changed since it was described."""
        return ByteTokenizer() if self.path is None else _JsonTokenizer(self)


class ByteTokenizer:
    """The bytes of the text."""

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Bytes of each text as uint16."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) for text in texts]


class _JsonTokenizer:
    """A `tokenizers.Tokenizer`."""

    def __init__(self, spec: TokenizerSpec) -> None:
        content = Path(spec.path or "").read_bytes()
        if hashlib.sha256(content).hexdigest() != spec.hash:
            raise ConfigError(f"{spec.path}: the tokenizer changed while it was in use. Run the command again.")
        self._tokenizer = parse_tokenizer(content, spec.path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._dtype = spec.dtype

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, self._dtype) for encoding in encodings]


def describe_tokenizer(name: str, eos: str | None = None) -> TokenizerSpec:
    """The spec of `bytes` or of a tokenizer.json (or the folder that holds one).

    Args:
        name: the value of `--tokenizer`.
        eos: the value of `--eos`: an id in digits, or a token; None looks for one of the usual names.

    Raises:
        ConfigError: there is no such file, or the token that ends a document cannot be determined.
    """
    if name == "bytes":
        if eos not in {None, "256"}:
            raise ConfigError(f"--eos {eos}: the bytes tokenizer ends documents with 256; leave --eos out.")
        return TokenizerSpec(name="bytes", vocab_size=257, eos=256, hash="bytes")
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
    size = max(vocabulary.values(), default=-1) + 1
    label = path.resolve().parent.name if path.name == "tokenizer.json" else path.stem
    digest = hashlib.sha256(content).hexdigest()
    found = _find_eos(tokenizer, vocabulary, eos, path)
    return TokenizerSpec(name=label, vocab_size=size, eos=found, hash=digest, path=str(path.resolve()))


def _find_eos(tokenizer: Any, vocabulary: dict[str, int], eos: str | None, path: Path) -> int:
    if eos is not None:
        found = int(eos) if eos.isdecimal() else vocabulary.get(eos)
        if found is None or found not in vocabulary.values():
            raise ConfigError(f"--eos {eos}: {path} has no such token.")
        return found
    # Some vocabularies contain </s> as a piece of HTML: ordinary tokens count only if no special token has such a name.
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    usual = [token for token in _USUAL_EOS if token in special] or [t for t in _USUAL_EOS if t in vocabulary]
    if len(usual) == 1:
        return vocabulary[usual[0]]
    if usual:
        raise ConfigError(
            f"{path} has several tokens that may end a document: {', '.join(usual)}. Choose: --eos {usual[0]}"
        )
    raise ConfigError(
        f"{path} has none of the usual tokens that end a document ({', '.join(_USUAL_EOS)}). "
        "Name it: --eos ID or --eos TOKEN"
    )
