"""What tiktoken's files do not hold of known encodings: the pattern, the special tokens, and which file is whose.

Patterns and tokens are those of the package tiktoken (openai_public.py), of Meta's llama-models and of Qwen. A pattern
is copied in the form that runs fastest there; a pattern's other forms find the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT_2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN = LLAMA_3.replace("{1,3}", "")
_END = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """A known encoding.

    Attributes:
        pattern: cuts a text into words.
        special: its special tokens with their ids.
        hashes: SHA-256 of the files that are it.
        eos: the token that ends a document.
        bos: the token that its own library puts before a document.
    """

    pattern: str
    special: Mapping[str, int]
    hashes: frozenset[str] = field(default_factory=frozenset)
    eos: str = _END
    bos: str | None = None


def _llama_3() -> dict[str, int]:
    words = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    words += ["finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    words += ["image"]
    words += [f"reserved_special_token_{2 + at}" for at in range(256 - len(words))]
    return {f"<|{word}|>": 128_000 + at for at, word in enumerate(words)}


def _qwen() -> dict[str, int]:
    words = ["endoftext", "im_start", "im_end", *(f"extra_{at}" for at in range(205))]
    return {f"<|{word}|>": 151_643 + at for at, word in enumerate(words)}


_FIM = {"<|fim_prefix|>": 1, "<|fim_middle|>": 2, "<|fim_suffix|>": 3}
_O200K_SPECIAL = {_END: 199_999, "<|endofprompt|>": 200_018}
_HARMONY = {f"<|reserved_{at}|>": at for at in range(200_000, 201_088)} | {
    "<|startoftext|>": 199_998,
    "<|endoftext|>": 199_999,
    "<|return|>": 200_002,
    "<|constrain|>": 200_003,
    "<|channel|>": 200_005,
    "<|start|>": 200_006,
    "<|end|>": 200_007,
    "<|message|>": 200_008,
    "<|call|>": 200_012,
    "<|endofprompt|>": 200_018,
}
_HARMONY = {word: at for at, word in {at: word for word, at in _HARMONY.items()}.items()}  # one word for each id
_R50K = frozenset({"306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"})
_P50K = frozenset({"94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"})
_O200K_FILE = frozenset({"446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"})

ENCODINGS: Mapping[str, Encoding] = {
    "gpt2": Encoding(pattern=_GPT_2, special={_END: 50_256}),
    "r50k_base": Encoding(pattern=_GPT_2, special={_END: 50_256}, hashes=_R50K),
    "p50k_base": Encoding(pattern=_GPT_2, special={_END: 50_256}, hashes=_P50K),
    "p50k_edit": Encoding(
        pattern=_GPT_2, special={_END: 50_256, **{word: 50_280 + at for word, at in _FIM.items()}}, hashes=_P50K
    ),
    "cl100k_base": Encoding(
        pattern=_CL100K,
        special={_END: 100_257, **{word: 100_257 + at for word, at in _FIM.items()}, "<|endofprompt|>": 100_276},
        hashes=frozenset({"223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"}),
    ),
    "o200k_base": Encoding(pattern=_O200K, special=_O200K_SPECIAL, hashes=_O200K_FILE),
    "o200k_harmony": Encoding(pattern=_O200K, special=_HARMONY, hashes=_O200K_FILE),
    "llama3": Encoding(
        pattern=LLAMA_3,
        special=_llama_3(),
        hashes=frozenset({"82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"}),
        eos="<|end_of_text|>",
        bos="<|begin_of_text|>",
    ),
    "qwen": Encoding(pattern=_QWEN, special=_qwen()),
}
"""By the names that `--tokenizer NAME=PATH` takes; of two with one file, the first is meant if no name is given."""


def by_hash(digest: str) -> str | None:
    """Return the name of the encoding whose file has this SHA-256; None if it is of none."""
    return next((name for name, each in ENCODINGS.items() if digest in each.hashes), None)
