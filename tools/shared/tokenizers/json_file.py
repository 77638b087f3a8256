"""A tokenizer.json of Hugging Face's package `tokenizers`, which is optional.

The file's truncation, padding and templates are off: what stands around a document is for the caller to say.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixstream.errors import ConfigError

from .kind import TokenIds, Vocabulary


class JsonTokenizer:
    """A `tokenizers.Tokenizer`."""

    cuts_anywhere = False

    def __init__(self, content: bytes, path: object, *, parse: bool, dtype: str) -> None:
        if parse:
            self._tokenizer = parse_tokenizer(content, path)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        else:
            self._tokenizer = parse_for_text(content, path)
        self._content, self._path, self._dtype = content, path, dtype
        self._decoder: Any = None

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text; the package's threads share the texts of a call."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, self._dtype) for encoding in encodings]

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of a row."""
        if self._decoder is None:  # `parse_for_text` hides the names of special tokens
            self._decoder = parse_tokenizer(self._content, self._path)
        known = np.asarray(ids)
        return self._decoder.decode(known[known >= 0].tolist(), skip_special_tokens=not special)


def describe(content: bytes, path: object, *, config: Mapping[str, str | None]) -> Vocabulary:
    """Return the vocabulary of a file; `config` has `eos` and `bos` of the tokenizer_config.json beside it."""
    tokenizer = parse_tokenizer(content, path)
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    special = special_tokens(tokenizer)
    return Vocabulary(
        size=max(ids.values(), default=-1) + 1,
        special=special,
        ids=ids,
        unmarked=tuple(unmarked_tokens(tokenizer)),
        eos=config["eos"],
        bos=config["bos"],
        puts_first=_puts_first(tokenizer, special),
    )


def _puts_first(tokenizer: Any, special: Mapping[str, int]) -> str | None:
    """The special token that the template of the file puts before a text; None for none."""
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    words = {number: word for word, number in special.items()}
    return words.get(ids[0]) if ids and ids[:1] != plain[:1] else None


def parse_tokenizer(content: bytes, path: object) -> Any:
    """Return the `tokenizers.Tokenizer` of the file `path`, whose bytes are `content`.

    Raises:
        ConfigError: the package is not installed, or it cannot read the file.
    """
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise ConfigError(
            f"--tokenizer {path}: the package `tokenizers` is not installed. Run: pip install tokenizers"
        ) from None
    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the Rust side raises plain Exception
        raise ConfigError(
            f"{path}: not a tokenizer.json that `tokenizers` can read: {error}. Of a tokenizer of another "
            "kind, make one: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), of the package transformers"
        ) from error


def parse_for_text(content: bytes, path: object) -> Any:
    """Return the same tokenizer for text that is only ever text: no truncation, padding or template, no special token.

    `encode_special_tokens` alone is not enough: the model of many a SentencePiece tokenizer (Unigram) has `</s>` among
    its pieces and finds it in a text. So special tokens that are pieces get names there that nobody can guess.
    """
    tokenizer = parse_tokenizer(_without_special_pieces(content), path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the special tokens of a tokenizer by their texts, in the order of their ids."""
    found = sorted(tokenizer.get_added_tokens_decoder().items())
    return {token.content: number for number, token in found if token.special}


def unmarked_tokens(tokenizer: Any) -> list[str]:
    """Return the texts of added tokens that are not marked as special, which are tokens wherever a text has them."""
    return [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items()) if not token.special]


def _without_special_pieces(content: bytes) -> bytes:
    """A tokenizer.json whose model cannot find special tokens in a text; all ids stay."""
    unspellable = f"\uffff{secrets.token_hex(16)}"
    try:
        document = json.loads(content)
        model, vocabulary = document["model"], document["model"]["vocab"]
        special = {token["content"] for token in document["added_tokens"] if token["special"]}
        if isinstance(vocabulary, list):  # Unigram: pieces with scores; it knows its unknown piece by its number
            pieces = special & {piece for piece, _ in vocabulary}
            model["vocab"] = [[unspellable * (piece in pieces) + piece, score] for piece, score in vocabulary]
        else:
            pieces = (special & vocabulary.keys()) - {model.get("unk_token")}
            model["vocab"] = {unspellable * (piece in pieces) + piece: at for piece, at in vocabulary.items()}
        if "merges" in model:  # each a pair, or two pieces with a space between them
            pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            model["merges"] = [pair for pair in pairs if pieces.isdisjoint([*pair, "".join(pair)])]
        document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] not in pieces]
        document["post_processor"] = None
    except (ValueError, KeyError, TypeError, AttributeError):
        return content  # `tokenizers` says what is wrong with it
    return json.dumps(document).encode() if pieces else content
