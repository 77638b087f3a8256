"""A tokenizer on disk: its kind, its files with their hashes, and the facts that its own files do not hold.

A source is small and picklable; each worker loads it and refuses files that changed since it was described. `copy_to`
writes the files with a description, `mixstream-tokenizer.json`, from which `find_tokenizer` makes the same source:

    {"version": 1, "kind": "tiktoken", "name": "cl100k_base", "files": {"cl100k_base.tiktoken": "223921b7…"},
     "pattern": "…", "special_tokens": {"<|endoftext|>": 100257}, "eos": "<|endoftext|>", "hash": "…"}

Such a description may also be written by hand, with `kind`, `files` (names), `pattern` and `special_tokens`: for a
tiktoken encoding that mixstream does not know.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mixstream.errors import ConfigError
from mixstream.storage import write_whole

from . import byte_pairs, byte_values, json_file, sentence_pieces
from .kind import SpecialTokens, Tokenizer, Vocabulary

Kind = Literal["bytes", "tokenizer.json", "sentencepiece", "tiktoken"]
BYTES = "bytes"
DESCRIPTION = "mixstream-tokenizer.json"
TRAINING = "training.json"
"""Beside a tokenizer that `convert --train-bpe` made: of what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of a tokenizer."""

    path: str
    hash: str
    """SHA-256."""

    @property
    def name(self) -> str:
        """Its name without the directory."""
        return Path(self.path).name

    @classmethod
    def of(cls, path: Path, content: bytes) -> StoredFile:
        """Return the file at `path`, whose content was just read."""
        return cls(path=str(path.absolute()), hash=hashlib.sha256(content).hexdigest())

    def read(self) -> bytes:
        """Return the content. Raises ConfigError if it is not what it was."""
        try:
            content = Path(self.path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.path}: the tokenizer cannot be read any more: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.hash:
            raise ConfigError(
                f"{self.path}: the tokenizer changed while it was in use; it has changed since this command began. "
                "Run the command again."
            )
        return content


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSource:
    """What `--tokenizer` names.

    Attributes:
        kind: which of the kinds.
        name: what people call it, such as `llama` or `cl100k_base`.
        files: what it is made of, the main file first; none for `bytes`.
        companions: files beside them that are copied with them, such as tokenizer_config.json.
        hash: SHA-256 of a single file that decides the ids alone; else of the hashes of all files and of the facts
            below that decide ids; `bytes` for bytes.
        pattern: of tiktoken, how a text is cut into words.
        special: special tokens that the files themselves do not hold or mark, with their ids.
        added: tokens that the files do not hold and that are tokens in every text.
        eos: the token that the configuration names as the end of a text.
        bos: the token that it names as the beginning.
        puts_first: the token that it puts before a text.
    """

    kind: Kind
    name: str
    files: tuple[StoredFile, ...] = ()
    companions: tuple[StoredFile, ...] = ()
    hash: str = ""
    pattern: str | None = None
    special: tuple[tuple[str, int], ...] = ()
    added: tuple[tuple[str, int], ...] = ()
    eos: str | None = None
    bos: str | None = None
    puts_first: str | None = None

    @property
    def path(self) -> str | None:
        """The main file; None for `bytes`."""
        return self.files[0].path if self.files else None

    def vocabulary(self) -> Vocabulary:
        """Its tokens. Raises ConfigError if it cannot be read, or its package is missing."""
        contents = [file.read() for file in self.files]
        if self.kind == BYTES:
            return byte_values.VOCABULARY
        if self.kind == "tokenizer.json":
            return json_file.describe(contents[0], self.path, config=self._config())
        facts = {**self._config(), "special": dict(self.special), "added": dict(self.added)}
        describe = sentence_pieces.describe if self.kind == "sentencepiece" else byte_pairs.describe
        return describe(contents, self.path, **facts)

    def _config(self) -> dict[str, Any]:
        return {"eos": self.eos, "bos": self.bos, "puts_first": self.puts_first}

    def load(self, special_tokens: SpecialTokens = "text", dtype: str = "uint32") -> Tokenizer:
        """Load it.

        Args:
            special_tokens: `parse` makes special tokens of texts that spell them; else these are letters.
            dtype: of the ids.

        Raises:
            ConfigError: a file changed since it was described, or cannot be read.
        """
        parse = special_tokens == "parse"
        contents = [file.read() for file in self.files]
        if self.kind == BYTES:
            return byte_values.ByteTokenizer()
        if self.kind == "tokenizer.json":
            return json_file.JsonTokenizer(contents[0], self.path, parse=parse, dtype=dtype)
        special, added = dict(self.special), dict(self.added)
        if self.kind == "sentencepiece":
            return sentence_pieces.SentencePieceTokenizer(
                contents[0], self.path, special=special, added=added, parse=parse, dtype=dtype
            )
        return byte_pairs.BytePairTokenizer(
            contents, self.path, pattern=self.pattern or "", special=special, added=added, parse=parse, dtype=dtype
        )

    def copy_to(self, directory: Path) -> None:
        """Write its files and its description into `directory`, which is created; equal files stay. `bytes` has none.

        Raises:
            ConfigError: a file changed since it was described.
        """
        if self.kind == BYTES:
            return
        directory.mkdir(parents=True, exist_ok=True)
        for file in (*self.files, *self.companions):
            _replace(directory / file.name, file.read())
        described = {key: value for key, value in self.describe().items() if value not in (None, {})}
        _replace(directory / DESCRIPTION, json.dumps(described, ensure_ascii=False, indent=1).encode())

    def describe(self) -> dict[str, Any]:
        """The content of its description."""
        return {
            "version": 1,
            "kind": self.kind,
            "name": self.name,
            "hash": self.hash,
            "files": {file.name: file.hash for file in self.files},
            "pattern": self.pattern,
            "special_tokens": dict(self.special),
            "added_tokens": dict(self.added),
            **self._config(),
        }


def hash_of(files: tuple[StoredFile, ...], **facts: Any) -> str:
    """Return the hash of a source: that of its only file if no fact decides ids too."""
    decisive = {key: value for key, value in sorted(facts.items()) if value}
    if len(files) == 1 and not decisive:
        return files[0].hash
    return hashlib.sha256(json.dumps([[file.hash for file in files], decisive]).encode()).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    if path.is_file() and path.read_bytes() == content:
        return
    with write_whole(path) as file:
        file.write(content)
