"""Parses a tokenizer.json with Hugging Face's package `tokenizers`, which is optional."""

from __future__ import annotations

import json
import secrets
from typing import Any

from mixstream.errors import ConfigError


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
            f"{path}: not a tokenizer.json that `tokenizers` can read: {error}. Of a SentencePiece or tiktoken model, "
            "make one: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), of the package transformers"
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
