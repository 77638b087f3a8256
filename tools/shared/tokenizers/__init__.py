"""Tokenizers on disk: one kind a file, all behind `Tokenizer`, for the commands that encode texts or show tokens.

    find.py               the value of `--tokenizer` → source.py: what is on disk, with hashes
    byte_values.py        `bytes`                     json_file.py    tokenizer.json of Hugging Face
    sentence_pieces.py    SentencePiece `.model`      byte_pairs.py   tiktoken: `.tiktoken`, vocab.bpe with encoder.json
    encodings.py          tiktoken's known encodings  model_config.py tokenizer_config.json beside them

Invariants. Text never becomes a special token, unless `--special-tokens parse` asks for it: a text that spells `</s>`
is letters for all kinds. The ids depend on the files that `TokenizerSource.hash` covers, and on nothing else.
"""

from .find import find_tokenizer
from .kind import SpecialTokens, TokenIds, Tokenizer, Vocabulary, encoding_threads
from .source import BYTES, DESCRIPTION, TRAINING, TokenizerSource

__all__ = [
    "BYTES",
    "DESCRIPTION",
    "TRAINING",
    "SpecialTokens",
    "TokenIds",
    "Tokenizer",
    "TokenizerSource",
    "Vocabulary",
    "encoding_threads",
    "find_tokenizer",
]
