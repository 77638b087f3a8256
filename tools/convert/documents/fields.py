"""What a document is: which fields of a record make its text, its domain, its id, and which documents are taken.

Rule: frozen values that can be pickled and compared; how they are applied to a record is in readers/documents.py. What
they say is part of the recipe (`describe`), and files and functions that they name are part of it by their hashes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mixstream.errors import ConfigError

from .chat import ChatTemplate
from .domain_map import DomainMap
from .filters import Filter
from .functions import UserFunction
from .words import pattern_of

FILE = "__file__"
"""Field of every record, of files without fields too: the name of its file below SRC, with `/`."""
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """What a document is.

    Attributes:
        text: of a record, the field with the text; `meta.source` reaches into objects. Several, with commas, are
            joined; one that ends in `?` may be missing.
        join: what stands between the texts of several fields.
        template: text with fields in braces, instead of `text`: `{title}: {body}`.
        messages: of a record, the field with a chat, instead of `text`.
        chat: what makes text of a chat.
        domain: of a record, the field with the domain; None if the command line names it.
        domain_map: values of `domain` → domains.
        domain_function: a function from a record to its domain, instead of `domain`.
        id: of a record, the field with the document's id; None takes a hash of the text.
        keep: of a record, further fields that the sidecar of documents keeps: FIELD, or NAME=FIELD for another name.
        filters: a document is taken if all of them take it.
        separator: in text files, what stands between two documents; None if a file is one document.
        extract: of a record whose text is HTML, what makes text of it (extractors.py); None for nothing.
        forbidden: texts that make a document bad, the special tokens of `--special-tokens error`.
    """

    text: str
    join: str = "\n\n"
    template: str | None = None
    messages: str | None = None
    chat: ChatTemplate | None = None
    domain: str | None = None
    domain_map: DomainMap | None = None
    domain_function: UserFunction | None = None
    id: str | None = None
    keep: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    separator: str | None = None
    extract: str | None = None
    forbidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what the command line can get wrong."""
        if self.domain is not None and self.domain_function is not None:
            raise ConfigError("--domain-key and --domain-function both name domains. Leave out one of them.")
        if self.template is not None and not any(isinstance(part, Key) for part in template_parts(self.template)):
            raise ConfigError(f"--text-template {self.template!r} names no field: write it in braces, as in {{text}}.")
        if self.template is None and "," in self.text and not all(key.name for key in self.text_keys):
            raise ConfigError(f"--text-key {self.text!r}: there is no field between its commas.")

    @property
    def text_keys(self) -> tuple[Key, ...]:
        """The fields of `text`."""
        return tuple(Key.parse(name) for name in self.text.split(",")) if "," in self.text else (Key.parse(self.text),)

    @property
    def label(self) -> str:
        """What makes the text, for errors."""
        if self.template is not None:
            return "for --text-template"
        if self.messages is not None:
            return repr(self.messages)
        return f"{self.text!r}" if len(self.text_keys) == 1 else f"of --text-key {self.text}"

    @property
    def names_domains(self) -> bool:
        """Whether documents say their domain, and not the command line."""
        return self.domain is not None or self.domain_map is not None or self.domain_function is not None

    @property
    def needs_fields(self) -> bool:
        """Whether domains need fields, which text files do not have."""
        return self.domain is not None and self.domain != FILE

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the columns that are kept."""
        return tuple(name.partition("=")[0] for name in self.keep)

    @property
    def kept_fields(self) -> tuple[str, ...]:
        """The fields of a record that are kept."""
        return tuple(name.partition("=")[2] or name for name in self.keep)

    @property
    def columns(self) -> frozenset[str] | None:
        """The columns of a table that are needed: each name, and what a dotted name begins with; None for all."""
        if (
            self.chat is not None
            or self.domain_function is not None
            or any(each.kind == "function" for each in self.filters)
        ):
            return None
        parts = self.text_keys if self.template is None else template_parts(self.template)
        names = [part.name for part in parts if isinstance(part, Key)]
        names += [name for name in (self.domain, self.id) if name is not None]
        names += [*self.kept_fields, *(name for each in self.filters for name in each.names(self.id))]
        return frozenset(part for name in names for part in (name, name.partition(".")[0]) if name != FILE)

    def describe(self) -> dict[str, Any]:
        """What decides the documents, as JSON, by the names of the command line's options."""
        return {
            "text-key": self.text,
            "text-join": self.join if len(self.text_keys) > 1 else None,
            "text-template": self.template,
            "messages-key": self.messages,
            "chat-template": None if self.chat is None else self.chat.describe(),
            "domain-key": self.domain,
            "domain-map": None if self.domain_map is None else self.domain_map.describe(),
            "domain-function": None if self.domain_function is None else self.domain_function.describe(),
            "filters": [each.describe() for each in self.filters],
            "document-separator": self.separator,
            "id-key": self.id,
            "keep": list(self.keep),
        }

    def find_forbidden(self, text: str) -> tuple[str, int] | None:
        """Return the first of `forbidden` in a text, and the character where it begins."""
        if not self.forbidden:
            return None
        found = pattern_of(self.forbidden).search(text)
        return None if found is None else (found[0], found.start())


@dataclass(frozen=True, slots=True)
class Key:
    """A field by its name; an optional one may be missing, null or empty.

    >>> Key.parse("meta.title?")
    Key(name='meta.title', optional=True)
    """

    name: str
    optional: bool = False

    @classmethod
    def parse(cls, typed: str) -> Key:
        """The field that a user typed."""
        typed = typed.strip()
        return cls(typed.removesuffix("?"), typed.endswith("?"))


def template_parts(template: str) -> list[str | Key]:
    r"""Return the texts and fields of a template; `{{` and `}}` are braces.

    Raises:
        ConfigError: a brace has no partner, or there is no name between two.

    >>> template_parts("{title?}\n{{x}} {meta.body}")
    [Key(name='title', optional=True), '\n{', 'x', '} ', Key(name='meta.body', optional=False)]
    """
    parts: list[str | Key] = []
    at = 0
    for found in _PLACE.finditer(template):
        text = template[at : found.start()]
        at = found.end()
        if found[0] in {"{{", "}}"}:
            parts.append(text + found[0][0])
            continue
        parts += [text] if text else []
        if not (found[1] or "").strip(" ?"):
            raise ConfigError(
                f"--text-template {template!r}: {found[0]!r} at character {found.start()} is no field. Write {{name}}, "
                "or {{ and }} for braces."
            )
        parts.append(Key.parse(found[1]))
    return parts + ([template[at:]] if at < len(template) else [])
