"""The options of convert that say what a document is, which ones are taken, and which domain each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mixstream.errors import ConfigError

from ..panels import DOCUMENTS
from .chat import ChatTemplate
from .domain_map import DomainMap
from .fields import Fields
from .filters import Filter
from .functions import UserFunction
from .separators import unescape

_Many = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
_Text = Annotated[str | None, Parameter(show_default=False)]
_Path = Annotated[Path | None, Parameter(show_default=False)]
_Separator = Annotated[str | None, Parameter(allow_leading_hyphen=True, show_default=False)]  # --- is a common one

TOPICS = """TEXT is the field --text-key; dots reach into objects. --text-key title?,text
joins several with --text-join; one that ends in ? may be missing.
--text-template '{title?}\\n{text}' puts them into a text; {{ and }} are
braces. Text files have no fields but __file__, the file's name below SRC,
which all formats have.

CHATS. --messages-key messages takes a list of {role, content} and renders it
by the chat template beside the tokenizer, or --chat-template FILE. Rows then
have a column loss_mask (uint8): 1 for tokens of the assistant's turns, which
the template marks by {% generation %}, or which it adds behind its prompt;
1 everywhere in documents that are no chats. A message that spells a special
token makes the document bad. Needs a tokenizer.json, or bytes.

DOMAINS. Each SRC is a domain, named after its last path component (for a
file: without suffixes), or NAME in NAME=PATH. Several SRC may have one NAME:
web=a*.jsonl web=b/. A single directory that holds only directories gives one
domain for each. With --domain-key, a field of each document names the
domain; the directory of C# is C~23. --domain-map FILE has lines of a value and
its domain (CSV, or a JSON object), also patterns: crawl-*,web. It maps the
values of --domain-key, or the names of files below SRC. --domain-function
MODULE:FUNCTION gets each record as a dict, with its file as __file__.

FILTERS. --filter "language == 'en' and score >= 0.5" takes documents for
which a condition on fields holds (as in `mixstream select where`). A document
without the field is bad. --filter-ids and --drop-ids have one id in each line
(the document's --id-key, or else the hash of its text). What filters leave out
is counted.
"""
"""What the help of the command says of them."""


@Parameter(name="*", group=DOCUMENTS)
@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentOptions:
    """What a document is. As a parameter of a command, its fields are options.

    Args:
        text_key: field with the text; dots reach into objects. Several, as in title?,text, are joined: see TEXT.
        text_join: what stands between the texts of several fields.
        text_template: text with fields in braces, instead of --text-key: '{title}\\n\\n{text}'.
        messages_key: field with a chat, a list of {role, content}, instead of --text-key: see CHATS.
        chat_template: file with the template of chats; default: the one that lies beside the tokenizer.
        document_separator: what stands between the documents of a text file, as <|endoftext|> or \\n\\n.
        domain_key: field with the domain, as in meta.pile_set_name; __file__ is the file's name below SRC.
        domain_map: file with pairs of a value (or pattern) and its domain: see DOMAINS.
        domain_default: with --domain-map: the domain of all other values; default: such a document is bad.
        domain_function: MODULE:FUNCTION from a record to its domain, or None to leave it out.
        id_key: field with a document's id; default: a hash of its text (xxh3_128).
        keep: further fields that are kept of each document, separated by commas (url,lang=meta.lang).
        filter: take documents for which a condition on fields holds; may be repeated: see FILTERS.
        filter_ids: take documents whose id is a line of this file.
        drop_ids: leave out documents whose id is a line of this file.
        filter_function: MODULE:FUNCTION from a record to true or false.
    """

    text_key: str = "text"
    text_join: str = r"\n\n"
    text_template: _Text = None
    messages_key: _Text = None
    chat_template: _Path = None
    document_separator: _Separator = None
    domain_key: _Text = None
    domain_map: _Path = None
    domain_default: _Text = None
    domain_function: _Text = None
    id_key: _Text = None
    keep: _Many = ()
    filter: _Many = ()
    filter_ids: _Path = None
    drop_ids: _Path = None
    filter_function: _Text = None

    @property
    def kept(self) -> tuple[str, ...]:
        """The entries of `keep`, one by one."""
        return tuple(part.strip() for text in self.keep for part in text.split(","))

    def fields(
        self,
        *,
        extract: str | None = None,
        forbidden: tuple[str, ...] = (),
        tokenizer: str | None = None,
        words: tuple[str, ...] = (),
    ) -> Fields:
        """Return what they say.

        Args:
            extract: what makes text of HTML.
            forbidden: words that make a document bad.
            tokenizer: path of the tokenizer, beside which a chat template may lie.
            words: special tokens that no message of a chat may spell.

        Raises:
            ConfigError: a value is malformed, two of them contradict each other, or a file cannot be read.
        """
        if self.domain_default is not None and self.domain_map is None:
            raise ConfigError(f"--domain-default {self.domain_default} is for --domain-map: add that, or leave it out.")
        if self.domain_function is not None and self.domain_map is not None:
            raise ConfigError("--domain-function and --domain-map both name domains. Leave out one of them.")
        if self.chat_template is not None and self.messages_key is None:
            raise ConfigError(f"--chat-template {self.chat_template} is for --messages-key: add that, or leave it out.")
        if self.messages_key is not None and (self.text_template is not None or self.text_key != "text"):
            raise ConfigError("--messages-key and --text-key or --text-template both make the text. Leave out one.")
        filters = [Filter.condition(text) for text in self.filter]
        filters += [Filter.ids(str(self.filter_ids))] if self.filter_ids is not None else []
        filters += [Filter.ids(str(self.drop_ids), drop=True)] if self.drop_ids is not None else []
        filters += [Filter.function(self.filter_function)] if self.filter_function is not None else []
        return Fields(
            text=self.text_key,
            join=unescape(self.text_join, "--text-join") if self.text_join else "",
            template=None if self.text_template is None else unescape(self.text_template, "--text-template"),
            messages=self.messages_key,
            chat=(None if self.messages_key is None else ChatTemplate.find(self.chat_template, tokenizer, words)),
            domain=self.domain_key,
            domain_map=None if self.domain_map is None else DomainMap.read(self.domain_map, self.domain_default),
            domain_function=(
                None if self.domain_function is None else UserFunction.find("--domain-function", self.domain_function)
            ),
            id=self.id_key,
            keep=self.kept,
            filters=tuple(filters),
            separator=None if self.document_separator is None else unescape(self.document_separator),
            extract=extract,
            forbidden=forbidden,
        )
