"""`--from-tokenizer`: what made the tokens of a dataset that is a source."""

from __future__ import annotations

from dataclasses import dataclass

from .tokenizer import describe_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class FromTokenizer:
    """The value of `--from-tokenizer`: what made the tokens of a source.

    Attributes:
        name: as the user gave it.
        hash: of its file.
        eos: the token that ends a document, for datasets that do not say it; None if there is none.
        puts_first: the token that it puts before a text, as it is decoded; empty for none.
    """

    name: str
    hash: str
    eos: int | None
    puts_first: str

    @classmethod
    def find(cls, name: str) -> FromTokenizer:
        """Look at the tokenizer. Raises ConfigError if there is none, or which token ends a document is not known."""
        spec = describe_tokenizer(name)
        return cls(name=name, hash=spec.hash, eos=spec.eos, puts_first=spec.puts_first or "")
