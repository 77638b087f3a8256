"""A SentencePiece `.model`, read with the package `sentencepiece`, which is optional.

A control piece such as `</s>` is never found in a text. A user-defined piece always is: those that a
tokenizer_config.json marks as special are turned into control pieces here, so that they stay letters too. Tokens that
the configuration adds behind the pieces of the model are found by cutting the text there.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mixstream.errors import ConfigError

from .kind import TokenIds, Vocabulary, encoding_threads, split_at

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_PIECE = 1  # field of the model, whose fields are those of sentencepiece_model.proto
_TEXT, _TYPE = 1, 3  # fields of a piece


class SentencePieceTokenizer:
    """A `sentencepiece.SentencePieceProcessor`."""

    cuts_anywhere = False

    def __init__(
        self,
        content: bytes,
        path: object,
        *,
        special: Mapping[str, int],
        added: Mapping[str, int],
        parse: bool,
        dtype: str,
    ) -> None:
        types = piece_types(content, path)
        controls = {word for word, kind in types if kind == _CONTROL}
        ids = {word: at for at, (word, _) in enumerate(types)}
        self._special = {**{word: ids[word] for word in controls}, **special}
        self._processor = parse_model(content if parse else hide(content, special), path)
        self._words = {**added, **(self._special if parse else {})}
        self._dtype = dtype
        self._shown = {at: word for word, at in {**self._special, **added}.items()}

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text; the package's threads share the texts of a call."""
        if not self._words:
            return self._encoded(texts)
        parts = [split_at(self._words, text) for text in texts]
        plain = iter(self._encoded([part for each in parts for part in each[::2]]))
        made: list[TokenIds] = []
        for each in parts:
            marks = [np.array([self._words[word]], self._dtype) for word in each[1::2]]
            runs = [part for mark, run in zip([*marks, np.empty(0, self._dtype)], plain) for part in (run, mark)]
            made.append(np.concatenate(runs))
        return made

    def _encoded(self, texts: Sequence[str]) -> list[TokenIds]:
        threads = min(encoding_threads(), len(texts)) or 1
        if hasattr(self._processor, "parallel_encode_as_numpy"):  # since 0.2.2, without a list of Python integers
            found = self._processor.encode(list(texts), return_type="numpy", num_threads=threads)
        else:
            found = self._processor.encode(list(texts), out_type=int, num_threads=threads)
        return [np.asarray(ids).astype(self._dtype) for ids in found]

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of a row."""
        size = self._processor.vocab_size()
        runs: list[list[int] | str] = [[]]
        for token in ids:
            word = self._shown.get(int(token))
            if word is not None:
                runs += [word, []] if special else []
            elif 0 <= token < size:
                runs[-1].append(int(token))  # pyright: ignore[reportAttributeAccessIssue]  # the last is a list
        return "".join(run if isinstance(run, str) else self._processor.decode(run) for run in runs)


def describe(
    contents: Sequence[bytes], path: object, *, special: Mapping[str, int], added: Mapping[str, int], **config: Any
) -> Vocabulary:
    """Return the vocabulary of a model with what its tokenizer_config.json adds."""
    processor = parse_model(contents[0], path)
    types = piece_types(contents[0], path)
    ids = {word: at for at, (word, _) in enumerate(types)}
    known = {word: ids[word] for word, kind in types if kind == _CONTROL} | dict(special)
    user_defined = [word for word, kind in types if kind == _USER_DEFINED and word not in special]
    own = {"eos": processor.eos_id(), "bos": processor.bos_id()}
    return Vocabulary(
        size=max([len(types) - 1, *special.values(), *added.values()]) + 1,
        special=dict(sorted(known.items(), key=lambda item: item[1])),
        ids={**ids, **added},
        unmarked=(*user_defined, *added),
        eos=config["eos"] or (types[own["eos"]][0] if own["eos"] >= 0 else None),
        bos=config["bos"] or (types[own["bos"]][0] if own["bos"] >= 0 else None),
        puts_first=config["puts_first"],
    )


def parse_model(content: bytes, path: object) -> Any:
    """Return the `sentencepiece.SentencePieceProcessor` of the file `path`, whose bytes are `content`.

    Raises:
        ConfigError: the package is not installed, or it cannot read the file.
    """
    try:
        import sentencepiece
    except ModuleNotFoundError:
        raise ConfigError(
            f"--tokenizer {path}: the package `sentencepiece` is not installed. Run: pip install sentencepiece"
        ) from None
    try:
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(content)
    except Exception as error:  # of the C++ side: RuntimeError, OSError, depending on its version
        raise ConfigError(
            f"{path}: not a SentencePiece model, a tokenizer.json or a tiktoken file: {error}. A download that was "
            "cut short, or a page of a website in its place, looks like this: get the file again."
        ) from error
    return processor


def piece_types(content: bytes, path: object) -> list[tuple[str, int]]:
    """Return text and type of each piece, in the order of their ids. Raises ConfigError if the file is damaged."""
    try:
        pieces = [dict(_fields(body)) for number, body in _fields(content) if number == _PIECE]
        return [(piece[_TEXT].decode(), piece.get(_TYPE, _NORMAL)) for piece in pieces]
    except (IndexError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: not a SentencePiece model, or a damaged one. Get the file again.") from error


def spelled_pieces(content: bytes, path: object) -> list[str]:
    """Return the pieces that a text can spell: normal and user-defined ones."""
    return [word for word, kind in piece_types(content, path) if kind in {_NORMAL, _USER_DEFINED}]


def hide(content: bytes, words: Container[str]) -> bytes:
    """Return a model in which these pieces are control pieces, which no text spells; all ids stay."""
    made = bytearray()
    for number, body, field in _raw_fields(content):
        piece = dict(_fields(body)) if number == _PIECE else {}
        if piece.get(_TYPE, _NORMAL) in {_NORMAL, _USER_DEFINED} and piece.get(_TEXT, b"").decode() in words:
            changed = body + bytes([_TYPE << 3, _CONTROL])  # of a field that comes twice, the last counts
            made += bytes([_PIECE << 3 | 2]) + _varint(len(changed)) + changed
        else:
            made += field
    return bytes(made)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protobuf message; 32 and 64 bit values are skipped."""
    for number, value, _ in _raw_fields(message):
        if value is not None:
            yield number, value


def _raw_fields(message: bytes) -> Iterator[tuple[int, Any, bytes]]:
    """Yield number, value and all bytes of each field. Raises IndexError or ValueError at its damaged end."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _read_varint(message, at)
        value: Any = None
        if tag & 7 == 0:
            value, at = _read_varint(message, at)
        elif tag & 7 == 2:
            size, at = _read_varint(message, at)
            value, at = message[at : at + size], at + size
        elif tag & 7 in {1, 5}:
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError(f"unknown wire type {tag & 7}")
        if at > len(message):
            raise ValueError("the message is cut short")
        yield tag >> 3, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
