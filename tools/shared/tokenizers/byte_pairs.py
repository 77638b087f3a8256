"""tiktoken's encodings from files on disk, read with the package `tiktoken`, which is optional.

Two forms: a file of lines `BASE64 RANK` (`.tiktoken`, and the tokenizer.model of Llama 3), and GPT-2's vocab.bpe with
encoder.json, which Hugging Face calls merges.txt and vocab.json. Neither holds the pattern that cuts a text into words,
nor the special tokens: encodings.py knows those of known encodings. The package's own readers are not used, because
they keep copies of files by their paths, so a file that changed would be read as it was.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from mixstream.errors import ConfigError

from .kind import TokenIds, Vocabulary, encoding_threads

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_RUN = 25_000  # characters
_LONG_RUN = re.compile(rf"\s{{{_RUN}}}|\S{{{_RUN}}}")


class BytePairTokenizer:
    """A `tiktoken.Encoding`."""

    cuts_anywhere = False

    def __init__(
        self,
        contents: Sequence[bytes],
        path: object,
        *,
        pattern: str,
        special: Mapping[str, int],
        added: Mapping[str, int],
        parse: bool,
        dtype: str,
    ) -> None:
        ranks = read_ranks(contents, path)
        self._special, self._dtype = {*special.values()}, dtype
        self._known = {*ranks.values(), *special.values(), *added.values()}
        self._allowed = {*added, *(special if parse else ())}
        self._encoding = _encoding(ranks, path, pattern=pattern, special={**special, **added})

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text; several threads share the texts of a call."""
        threads = min(encoding_threads(), len(texts))
        if threads < 2:
            return [self._encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self._encode, texts))

    def _encode(self, text: str) -> TokenIds:
        try:
            return self._ids(text)
        except ValueError:  # a pattern can run out of stack in a run of a million spaces: cut such runs, as Llama does
            cuts = [0, *(match.end() for match in _LONG_RUN.finditer(text)), len(text)]
            return np.concatenate([self._ids(text[start:stop]) for start, stop in pairwise(cuts)])

    def _ids(self, text: str) -> TokenIds:
        ids = self._encoding.encode_to_numpy(text, allowed_special=self._allowed, disallowed_special=())
        return ids.astype(self._dtype)

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of a row."""
        left_out = set() if special else self._special
        known = [int(token) for token in ids if int(token) in self._known and int(token) not in left_out]
        return self._encoding.decode(known)


def describe(
    contents: Sequence[bytes], path: object, *, special: Mapping[str, int], added: Mapping[str, int], **config: Any
) -> Vocabulary:
    """Return the vocabulary of an encoding."""
    ranks = read_ranks(contents, path)
    taken, more = {*ranks.values()}, {**special, **added}
    if both := [word for word, at in more.items() if at in taken]:
        raise ConfigError(
            f"{path}: it has {len(ranks):,} tokens, and the id of {both[0]!r}, {more[both[0]]}, is one of theirs: it "
            "is of another encoding. Name the one that it is: --tokenizer ENCODING=PATH"
        )
    return Vocabulary(
        size=max([*taken, *special.values(), *added.values()]) + 1,
        special=dict(sorted(special.items(), key=lambda item: item[1])),
        ids={token.decode(errors="backslashreplace"): at for token, at in ranks.items()} | dict(added),
        unmarked=tuple(added),
        eos=config["eos"],
        bos=config["bos"],
        puts_first=config["puts_first"],
    )


def looks_like_ranks(content: bytes) -> bool:
    """Whether a file begins as tiktoken's do."""
    return _LINE.match(content[:4096]) is not None


def read_ranks(contents: Sequence[bytes], path: object) -> dict[bytes, int]:
    """Return the rank of each token, which is its id.

    Args:
        contents: of one file of ranks, or of merges and vocabulary.
        path: for errors.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        ranks = _ranks_of_lines(contents[0]) if len(contents) == 1 else _ranks_of_merges(*contents)
    except (ValueError, KeyError, binascii.Error) as error:
        raise ConfigError(f"{path}: not a tiktoken file, or a damaged one: {error}. Get the file again.") from error
    if missing := 256 - sum(bytes([byte]) in ranks for byte in range(256)):
        raise ConfigError(f"{path}: {missing} of the 256 bytes have no token, so it is damaged. Get the file again.")
    return ranks


def _ranks_of_lines(content: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if line:
            token, _, rank = line.partition(b" ")
            if not rank.isdigit():
                raise ValueError(f"line {number} is {line[:40]!r}")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    if len({*ranks.values()}) < len(ranks):
        raise ValueError("two tokens have one rank")
    return ranks


def _ranks_of_merges(merges: bytes, vocabulary: bytes) -> dict[bytes, int]:
    """The ranks of GPT-2's two files; they agree if the merges come in the order of the ids."""
    letters = _byte_letters()
    ids: dict[str, int] = json.loads(vocabulary)
    lines = [line for line in merges.decode().split("\n") if line and not line.startswith("#version")]
    tokens = [*letters, *("".join(line.split(" ")) for line in lines)]
    ranks = {bytes(letters[letter] for letter in token): ids[token] for token in tokens}
    merged = [ids[token] for token in tokens[len(letters) :]]
    if merged != sorted(merged):
        raise ValueError("the merges are in another order than the ids, so tiktoken would find other tokens")
    return ranks


def _byte_letters() -> dict[str, int]:
    """The letters that stand for bytes in GPT-2's files: printable ones for themselves, others from U+0100 on."""
    plain = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _encoding(ranks: dict[bytes, int], path: object, *, pattern: str, special: dict[str, int]) -> Any:
    try:
        import tiktoken
    except ModuleNotFoundError:
        raise ConfigError(
            f"--tokenizer {path}: the package `tiktoken` is not installed. Run: pip install tiktoken"
        ) from None
    try:
        return tiktoken.Encoding(str(path), pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    except Exception as error:  # the Rust side raises ValueError for a pattern, and panics for ranks
        raise ConfigError(f"{path}: tiktoken cannot use it: {error}") from error
