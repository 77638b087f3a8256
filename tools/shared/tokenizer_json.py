"""Parses a tokenizer.json with Hugging Face's package `tokenizers`, which is optional."""

from __future__ import annotations

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
        raise ConfigError(f"{path}: not a tokenizer.json that `tokenizers` can read: {error}") from error
