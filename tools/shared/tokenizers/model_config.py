"""tokenizer_config.json, special_tokens_map.json and added_tokens.json, which Hugging Face keeps beside a tokenizer.

They say which tokens are special, which were added behind the model's own, and which begin and end a text. Where they
disagree, tokenizer_config.json counts, since it is the newest form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_PUT_BOS_FIRST = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
"""Classes that put the token before a text where the file does not say `add_bos_token`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What the files of a directory say.

    Attributes:
        special: special tokens with their ids, where an id is given.
        names: texts of all special tokens, also of those without an id.
        added: tokens that are not special, and are tokens in every text.
        eos: the token that ends a text; None if none is named.
        bos: the token that begins a text.
        puts_first: `bos` if the tokenizer puts it before a text by itself.
        tokenizer_class: as transformers names it.
    """

    special: Mapping[str, int] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    added: Mapping[str, int] = field(default_factory=dict)
    eos: str | None = None
    bos: str | None = None
    puts_first: str | None = None
    tokenizer_class: str = ""


def read_model_config(directory: Path) -> ModelConfig:
    """Read the files of a directory; those that are missing say nothing.

    Raises:
        ConfigError: a file is not JSON of this form.
    """
    config, roles, added = (_read(directory / name) for name in (CONFIG, MAP, ADDED))
    where = directory / CONFIG
    try:
        decoder = {int(at): token for at, token in (config.get("added_tokens_decoder") or {}).items()}
        roles = {**roles, **{role: config[role] for role in (*_ROLES, "additional_special_tokens") if config.get(role)}}
        names = {word for role in _ROLES if (word := _text(roles.get(role)))}
        names |= {word for each in roles.get("additional_special_tokens") or () if (word := _text(each))}
        ids = {word: int(at) for word, at in added.items()} | {_known(token): at for at, token in decoder.items()}
        marked = {_known(token) for token in decoder.values() if token.get("special")}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"{where}: not a tokenizer_config.json that can be read: {error!r}. Get it again.") from error
    eos, bos = (_text(roles.get(role)) or None for role in ("eos_token", "bos_token"))
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    first = config.get("add_bos_token", name in _PUT_BOS_FIRST)
    return ModelConfig(
        special={word: at for word, at in ids.items() if word in names | marked},
        names=frozenset(names | marked),
        added={word: at for word, at in ids.items() if word not in names | marked},
        eos=eos,
        bos=bos,
        puts_first=bos if first else None,
        tokenizer_class=name,
    )


def _known(token: Mapping[str, Any]) -> str:
    return str(token["content"])


def _text(token: Any) -> str:
    """The text of a token, which the files give as text or as an object with `content`; empty for none."""
    return str(token.get("content") or "") if isinstance(token, dict) else str(token or "")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}. Get the file again.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a JSON object. Get the file again.")
    return found
