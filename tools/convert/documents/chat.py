"""Chats: `messages` through a chat template → a text, and which of its characters a model should learn.

Rules. What counts are the assistant's turns: those that the template marks by `{% generation %}`; of a template
without these, what rendering one more message adds behind the generation prompt. A template that cannot tell is
refused by name. A message that spells a special token makes the document bad, so that no content becomes a turn.
Templates run in jinja2's sandbox, and none may ask for the date: the same documents give the same tokens.

    user: Hi / assistant: Hello   →   <|user|>Hi<|assistant|>Hello<|end|>
                                                            ~~~~~~~~~~~~
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mixstream.errors import ConfigError

from .words import pattern_of

Spans = tuple[tuple[int, int], ...]
"""Characters from … to, of a text."""
_ABSENT = {"tools": None, "documents": None}
"""What templates ask for by `is not none`; transformers names it too where there is none."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
_NAMES = ("chat_template.jinja", "tokenizer_config.json")
_ROLES = "special_tokens_map.json"


class ChatError(ValueError):
    """A chat that the template does not take; `reason` as for other bad documents."""

    def __init__(self, fact: str, reason: str = "chat") -> None:
        super().__init__(fact)
        self.reason = reason


class Chat(NamedTuple):
    """A rendered chat."""

    text: str
    learned: Spans


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """A chat template.

    Attributes:
        source: in jinja.
        tokens: the special tokens that it may name, as `bos_token` → `<s>`.
        words: special tokens that no message may spell.
    """

    source: str
    tokens: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()

    @classmethod
    def find(cls, given: Path | None, tokenizer: str | None, words: tuple[str, ...]) -> ChatTemplate:
        """Return the template of a file, or the one that lies beside a tokenizer.

        Raises:
            ConfigError: there is none, or it is no template.
        """
        beside = None if tokenizer is None else Path(tokenizer).parent
        config = _config(beside, _NAMES[1]) if beside is not None else {}
        roles = _config(beside, _ROLES) if beside is not None else {}
        if given is not None:
            source = _read(given, f"--chat-template {given}")
        elif beside is not None and (beside / _NAMES[0]).is_file():
            source = _read(beside / _NAMES[0], str(beside / _NAMES[0]))
        else:
            source = _default(config.get("chat_template"))
        if source is None:
            raise ConfigError(
                f"--messages-key needs a chat template, and there is no {' or '.join(_NAMES)} with one beside the "
                "tokenizer. Give one: --chat-template FILE"
            )
        named = {
            key: _text(value)
            for each in (roles, config)
            for key, value in each.items()
            if key.endswith("_token") and value is not None
        }
        made = cls(source=source, tokens=tuple(sorted(named.items())), words=words)
        try:
            _compiled(made)
        except Exception as error:  # jinja2 raises many kinds
            raise ConfigError(f"the chat template cannot be compiled: {error}") from error
        return made

    def describe(self) -> str:
        """A hash of it, for the recipe."""
        return hashlib.sha256(json.dumps([self.source, self.tokens]).encode()).hexdigest()

    def render(self, messages: object, more: Mapping[str, Any]) -> Chat:
        """Return the text of a chat; ChatError with what is wrong.

        Args:
            messages: a list of {"role", "content"}.
            more: the other fields of the record, such as `tools`.
        """
        turns = _checked(messages, self.words)
        render = _compiled(self)
        text, marked = render(turns, more, False)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ChatError("it holds characters that are not UTF-8, or half of a surrogate pair", "not-utf8") from None
        if "generation" in self.source and marked is not None:
            learned = marked
        else:
            learned = tuple(_by_prefixes(turns, text, lambda to, prompt: render(turns[:to], more, prompt)[0]))
        if not any(end > begin for begin, end in learned):
            raise ChatError("it has no turn of the assistant, so there is nothing to learn")
        return Chat(text, learned)


def _by_prefixes(
    turns: Sequence[Mapping[str, Any]], text: str, render: Callable[[int, bool], str]
) -> Iterator[tuple[int, int]]:
    """Yield what each turn of the assistant adds to the text, behind the prompt that asks for it."""
    for at, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before, after = render(at, True) if at else "", render(at + 1, False)
        if not (after.startswith(before) and text.startswith(after)):
            raise ChatError(
                f"the chat template renders message {at} otherwise when it is the last one, so what the assistant "
                "said cannot be told. Mark it in the template by {% generation %}"
            )
        yield len(before), len(after)


def _checked(messages: object, words: tuple[str, ...]) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise ChatError("it is no list of messages" if not isinstance(messages, list) else "it has no message")
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ChatError(f"message {at} is no object with a role")
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if strange := [part for part in parts if not isinstance(part, dict) or part.get("type") != "text"]:
            raise ChatError(f"message {at} holds {strange[0]!r:.60}, which is no text")
        if not isinstance(content, str | list | None):
            raise ChatError(f"the content of message {at} is {content!r:.60}, no text")
    if words:
        spelled = next((found for text in _texts(messages) if (found := pattern_of(words).search(text))), None)
        if spelled is not None:
            raise ChatError(f"a message spells the special token {spelled[0]!r} (--special-tokens parse makes it one)")
    return [_with_reasoning(message) for message in messages]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning has the names that templates read, as transformers does, so that none is lost."""
    found = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


_Render = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any], bool], tuple[str, Spans | None]]


@lru_cache(maxsize=4)
def _compiled(template: ChatTemplate) -> _Render:
    """Return what renders messages: text, and the spans that the template marks, None if they cannot be placed."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from .chat_generation import Generation

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _no_date}
    compiled = environment.from_string(template.source)

    def render(turns: Sequence[Mapping[str, Any]], more: Mapping[str, Any], prompt: bool) -> tuple[str, Spans | None]:
        known = {**_ABSENT, **more, **dict(template.tokens), "messages": turns, "add_generation_prompt": prompt}
        blocks: list[str] = []
        spans: list[tuple[int, int]] = []
        marked: list[str] = []

        def note(text: str) -> str:
            begin = sum(map(len, blocks))
            spans.append((begin, begin + len(text)))
            marked.append(text)
            return text

        try:
            for block in compiled.generate(**known, **{Generation.NOTE: note}):
                blocks.append(block)  # noqa: PERF402  # `note` asks how many there are
        except ChatError:
            raise
        except Exception as error:  # what a template may raise is not bounded
            raise ChatError(f"the chat template does not take it: {error}") from error
        text = "".join(blocks)
        placed = all(text[begin:end] == each for (begin, end), each in zip(spans, marked))
        return text, tuple(spans) if placed and spans else None

    return render


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise ChatError(f"the chat template does not take it: {message}")


def _no_date(_: str) -> None:
    raise ChatError(
        "the chat template asks for the date of today, by which the same documents would give other tokens. Give a "
        "template without strftime_now: --chat-template FILE"
    )


def _read(path: Path, shown: str) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{shown}: it cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: it is not UTF-8 (byte {error.start}).") from error


def _config(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    if not path.is_file():
        return {}
    try:
        found = json.loads(_read(path, str(path)))
    except ValueError as error:
        raise ConfigError(f"{path}: it is not JSON: {error}.") from error
    return found if isinstance(found, dict) else {}


def _default(found: object) -> str | None:
    """The template of a tokenizer_config.json: a text, or a list of which one is called `default`."""
    if isinstance(found, list):
        found = next((each.get("template") for each in found if each.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _text(token: object) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
