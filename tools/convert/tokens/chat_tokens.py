"""Chats → token ids, and which of them count in the loss.

Rules. The special tokens of the template become tokens: the template wrote them, as messages that spell one were
refused (chat.py). A token counts if any of its characters is of the assistant's turns. A document has its begin and end
token once, also where the template writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError

from ..documents.chat import Spans
from .tokenizer import TokenizerSpec

TOKEN, LOSS = "token", "loss"

_Encoded = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]
"""Ids, and the characters where each begins and ends."""


def token_dtype(dtype: str, *, masked: bool) -> np.dtype[Any]:
    """The dtype of a token on its way to a row: its id, with `masked` and whether it counts."""
    id_ = np.dtype(dtype).newbyteorder("<")
    return np.dtype([(TOKEN, id_), (LOSS, "u1")]) if masked else id_


def check_chats(spec: TokenizerSpec) -> None:
    """Refuse a tokenizer that does not say which characters a token is made of; raises ConfigError."""
    if spec.source.kind not in {"bytes", "tokenizer.json"}:
        raise ConfigError(
            f"--messages-key needs a tokenizer.json, or bytes; {spec.name} is {spec.source.kind}. Make one of it: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), of the package transformers"
        )


def encode_chats(spec: TokenizerSpec, texts: Sequence[str], learned: Sequence[Spans]) -> list[NDArray[Any]]:
    """Return the tokens of whole documents, structured arrays of `token_dtype`.

    Args:
        spec: the tokenizer, and the tokens that begin and end a document.
        texts: rendered chats.
        learned: of each, the characters that count.
    """
    found = []
    for (ids, begin, end), spans in zip(_load(spec)(texts), learned):
        made = np.zeros(len(ids), token_dtype(spec.dtype, masked=True))
        made[TOKEN] = ids
        for first, last in spans:
            made[LOSS][(begin < last) & (end > first)] = 1
        if spec.bos is not None and (not len(ids) or ids[0] != spec.bos):
            made = np.concatenate([np.array([(spec.bos, 0)], made.dtype), made])
        if spec.eos is not None and (not len(made) or made[TOKEN][-1] != spec.eos):
            made = np.concatenate([made, np.array([(spec.eos, made[LOSS][-1] if len(made) else 0)], made.dtype)])
        found.append(made)
    return found


@lru_cache(maxsize=1)
def _load(spec: TokenizerSpec) -> Callable[[Sequence[str]], list[_Encoded]]:
    if spec.path is None:
        return lambda texts: [_bytes(text) for text in texts]
    from ...shared.tokenizers.json_file import parse_tokenizer

    (file,) = spec.source.files
    document = json.loads(file.read())
    document["post_processor"] = None  # some move the ends of tokens to leave out spaces
    tokenizer = parse_tokenizer(json.dumps(document).encode(), spec.path)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: Sequence[str]) -> list[_Encoded]:
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        offsets = [np.array(each.offsets, np.int64).reshape(-1, 2) for each in encodings]
        return [(np.array(each.ids), at[:, 0], at[:, 1]) for each, at in zip(encodings, offsets)]

    return encode


def _bytes(text: str) -> _Encoded:
    data = np.frombuffer(text.encode(), np.uint8)
    of = np.cumsum((data & 0xC0) != 0x80) - 1  # the character that each byte belongs to
    return data, of, of + 1
