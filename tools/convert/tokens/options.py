"""The options of convert that say how text becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass

from cyclopts import Parameter

from ...shared.numbers import MaybePositive
from ..panels import ROWS
from .tokenizer import SpecialTokens, TokenizerSpec, describe_tokenizer

TOPICS = """TOKENIZERS. --tokenizer is the path of a tokenizer.json, a SentencePiece
.model, a .tiktoken file of a known encoding (or ENCODING=PATH), or of a
directory of Hugging Face that has one of them; tokenizer_config.json there
says which tokens are special. --train-bpe 32000 trains a tokenizer on a
sample of the sources, at most 128 million characters, once for a DIR. Either
way, DIR/tokenizer has a copy.

TOKENS. A document ends with the usual token (<|endoftext|>, </s>, …), or with
the one that the tokenizer's files name; --eos names another, or none. None
begins it, whatever the tokenizer does by itself: see --bos. Special tokens
that a text spells out stay text and never become the token; --special-tokens
parse makes them tokens, error refuses such documents. What tokenizer.json
adds without "special": true, such as <think> in some, is always a token. Long
documents are encoded in parts, with the tokens of the whole.
"""
"""What the help of the command says of them."""


@Parameter(name="*", group=ROWS)
@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOptions:
    """How text becomes tokens. As a parameter of a command, its fields are options.

    Args:
        tokenizer: `bytes` (ids 0-255, and 256 after each document), or the path of a tokenizer: see TOKENIZERS.
        train_bpe: train a byte-level BPE tokenizer of so many tokens on the sources, and use it.
        eos: token or id that ends a document, or none; default: found as TOKENS says.
        bos: token or id that begins a document; auto for the one that the tokenizer itself puts first.
        special_tokens: what special tokens spelled out in a document are: plain text, the tokens (parse), or an error.
    """

    tokenizer: str = "bytes"
    train_bpe: MaybePositive = None
    eos: str | None = None
    bos: str = "none"
    special_tokens: SpecialTokens = "text"

    def describe(self) -> TokenizerSpec:
        """Return the tokenizer that is there; raises ConfigError if it cannot be read."""
        return describe_tokenizer(self.tokenizer, self.eos, bos=self.bos, special_tokens=self.special_tokens)
