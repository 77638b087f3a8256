"""Records → documents: the text, the domain, the id and what is kept of each. All formats with fields use it.

A document that a filter leaves out, and one without text, is counted; a bad one is reported with the reason.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

import xxhash

from ..documents.chat import Chat, ChatError, ChatTemplate, Spans
from ..documents.domain_names import check_domain_name
from ..documents.extractors import extract
from ..documents.fields import FILE, Fields, Key, template_parts
from ..files.source_files import OnBytes, Slice
from .field_values import (
    MISSING,
    BadDocumentError,
    FieldError,
    NotExtractedError,
    find_field,
    kind_of,
    names_in,
    text_of,
)
from .reader import PIECE_CHARS, Html, OnBad, Origin, Piece, Pieces, Reader, pieces_of

EMPTY = "documents without text"
"""What documents without text are counted under."""
_EXCERPT = 200  # characters
_check_domain = lru_cache(maxsize=1 << 16)(check_domain_name)


class Document(NamedTuple):
    """What a record says."""

    text: str
    domain: str | None
    id: str | None
    kept: tuple[object, ...]
    learned: Spans | None = None
    """Of a chat, the characters that count in the loss."""


def read_documents(
    reader: Reader,
    source: Slice,
    fields: Fields,
    on_bad: OnBad,
    on_bytes: OnBytes,
    *,
    left_out: Counter[str] | None = None,
) -> Pieces:
    """Yield the pieces of a slice's documents, whatever its format; returns the number of its records.

    `left_out` counts the documents that filters do not take, by filter, and those without text (`EMPTY`).
    """
    left_out = Counter() if left_out is None else left_out
    maker = DocumentMaker(fields, source.file.name)
    if reader.pieces is not None:
        return (yield from _of_files(reader.pieces(source, fields, on_bad, on_bytes), maker, source, on_bad, left_out))
    assert reader.records is not None
    records = reader.records(source, fields.columns, on_bad, on_bytes)
    while True:
        try:
            record = next(records)
        except StopIteration as end:
            return end.value
        try:
            document = maker(record.value)
        except ValueError as error:
            place = f"record {record.number}" if reader.place is None else reader.place(source, record)
            on_bad(
                f"{source.file.path}, {place}: {error}",
                record=record.number,
                excerpt=_excerpt(record.value),
                reason=getattr(error, "reason", "unreadable"),
            )
            continue
        if isinstance(document, str) or not document.text:
            left_out[document if isinstance(document, str) else EMPTY] += 1
            continue
        origin = Origin(record.number, document.id, document.kept)
        if document.learned is not None:
            yield Piece(document.text, document.domain, True, True, origin=origin, learned=document.learned)
            continue
        yield from pieces_of(document.text, document.domain, origin)


def document_of(value: object, fields: Fields) -> Document | str:
    """Return the document of a record, or the filter that leaves it out; raises ValueError with what is wrong."""
    return DocumentMaker(fields, "")(value)


def text_id(text: str) -> str:
    """The id of a document that has none of its own: equal for equal texts."""
    return xxhash.xxh3_128_hexdigest(text.encode())


class DocumentMaker:
    """Makes documents of the records of a file.

    Args:
        fields: what a document is.
        file: the name of the file below SRC.
    """

    def __init__(self, fields: Fields, file: str) -> None:
        self._fields = fields
        self._file = file.encode(errors="backslashreplace").decode()  # names are bytes, and need not be UTF-8
        self._texts = fields.text_keys if fields.template is None else tuple(template_parts(fields.template))
        self._map = None if fields.domain_map is None else fields.domain_map.finder()
        self._filters = [(each, each.compiled()) for each in fields.filters]
        self.decides = bool(self._filters or fields.names_domains or fields.keep or fields.id)

    def __call__(self, value: object) -> Document | str:
        """Return the document of a record, or the label of the filter that leaves it out; raises ValueError."""
        if not isinstance(value, dict):
            raise FieldError(
                f"a JSON {kind_of(value)}, not an object with a field {self._fields.label}", "not-an-object"
            )
        if self._fields.chat is not None:
            chat = self._chat(value, self._fields.chat)
            made = self.about(value, chat.text)
            return made if isinstance(made, str) else made._replace(learned=chat.learned)
        text = self._text(value)
        if isinstance(text, Html):
            text = _extracted(text, self._fields)
        if found := self._fields.find_forbidden(text):
            raise BadDocumentError(
                f"the field {self._fields.label} holds the special token {found[0]!r} at character {found[1]} "
                "(--special-tokens)",
                "special-token",
            )
        return self.about(value, text)

    def about(self, value: dict[str, Any], text: str, *, has_fields: bool = True, whole: bool = True) -> Document | str:
        """What the other fields of a record say of the document with this text; a text file has no id of its own.

        Unless `whole`, the text is only the beginning of the document.
        """
        fields = self._fields
        named = fields.id is not None and (has_fields or fields.id == FILE)

        def look_up(name: str) -> Any:
            return self._known(value, name)

        def id_() -> str:
            if named and fields.id is not None:
                return self._id(value, fields.id)
            if not whole:
                raise BadDocumentError("a list of ids cannot choose it, as its id is known at its end only", "too-long")
            return text_id(text)

        for each, takes in self._filters:
            if not takes(look_up, id_, {**value, FILE: self._file}):
                return each.label
        domain = self._domain(value)
        if isinstance(domain, _LeftOut):
            return domain
        return Document(
            text=text,
            domain=domain,
            id=id_() if named else None,
            kept=tuple(self._found(value, name, None) for name in fields.kept_fields) if fields.keep else (),
        )

    def _text(self, value: dict[str, Any]) -> str:
        fields = self._fields
        if fields.template is None and len(self._texts) == 1:
            (key,) = self._texts
            return text_of(value, key.name) if not key.optional else self._part(value, key)  # pyright: ignore
        if fields.template is None:
            texts = [self._part(value, key) for key in self._texts if isinstance(key, Key)]
            return fields.join.join(text for text in texts if text)
        return "".join(part if isinstance(part, str) else self._part(value, part, as_text=True) for part in self._texts)

    def _chat(self, value: dict[str, Any], template: ChatTemplate) -> Chat:
        name = self._fields.messages or "messages"
        messages = find_field(value, name, MISSING)
        if messages is MISSING:
            raise FieldError(f"no field {name!r}; the document has {names_in(value) or 'no fields'}")
        try:
            chat = template.render(messages, value)
        except ChatError as error:
            raise BadDocumentError(f"field {name!r}: {error}", error.reason) from None
        if len(chat.text) > PIECE_CHARS:
            raise BadDocumentError(f"field {name!r}: a chat of {len(chat.text):,} characters is too long", "too-long")
        return chat

    def _part(self, value: dict[str, Any], key: Key, *, as_text: bool = False) -> str:
        """A field of several; with `as_text`, a number is one too."""
        found = self._found(value, key.name, MISSING)
        if key.optional and (found is MISSING or found is None):
            return ""
        if as_text and isinstance(found, int | float):
            return str(found).lower() if isinstance(found, bool) else str(found)
        return self._file if key.name == FILE else text_of(value, key.name)

    def _domain(self, value: dict[str, Any]) -> str | None:
        fields = self._fields
        if not fields.names_domains:
            return None
        if fields.domain_function is not None:
            domain = fields.domain_function({**value, FILE: self._file})
            if domain is None:
                return _LeftOut(f"--domain-function {fields.domain_function.name}")
            if not isinstance(domain, str):
                raise BadDocumentError(f"--domain-function returned {domain!r:.60}, no text", "no-domain")
        else:
            name = fields.domain or FILE
            domain = self._file if name == FILE else text_of(value, name)
        try:
            domain = domain if self._map is None else self._map(domain)
            _check_domain(domain)
        except ValueError as error:
            raise BadDocumentError(str(error), "no-domain") from None
        return domain

    def _id(self, value: dict[str, Any], name: str) -> str:
        """An id: a string, or a whole number as one."""
        found = self._found(value, name, MISSING)
        if name == FILE or (isinstance(found, int) and not isinstance(found, bool)):
            return str(found)
        return text_of(value, name)

    def _found(self, value: dict[str, Any], name: str, default: object) -> Any:
        return self._file if name == FILE and FILE not in value else find_field(value, name, default)

    def _known(self, value: dict[str, Any], name: str) -> Any:
        """A field that a filter needs."""
        found = self._found(value, name, MISSING)
        if found is MISSING or found is None:
            what = "is null" if found is None else f"is missing; the document has {names_in(value)}"
            raise FieldError(f"field {name!r}, which --filter needs, {what}")
        return found


class _LeftOut(str):
    """The label of what leaves a document out."""


def _of_files(pieces: Pieces, maker: DocumentMaker, source: Slice, on_bad: OnBad, left_out: Counter[str]) -> Pieces:
    """The documents of a format without fields: their only field is that of their file."""
    taken: Document | str | None = None
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return end.value
        if not maker.decides:
            yield piece
            continue
        if piece.begins:
            record = 0 if piece.origin is None else piece.origin.record
            try:
                taken = maker.about({}, piece.text, has_fields=False, whole=piece.ends)
            except ValueError as error:
                taken = None
                on_bad(
                    f"{source.file.path}: {error}",
                    record=record,
                    excerpt=piece.text[:_EXCERPT],
                    reason=getattr(error, "reason", "unreadable"),
                )
            if isinstance(taken, str):
                left_out[taken] += 1
            if isinstance(taken, Document):
                origin = Origin(record, taken.id, taken.kept)
                piece = piece._replace(domain=taken.domain, origin=origin)
        if isinstance(taken, Document):
            yield piece if piece.begins else piece._replace(domain=taken.domain)


def _extracted(html: Html, fields: Fields) -> str:
    """The text of a page."""
    if fields.extract is None:
        raise NotExtractedError(
            f"the field {fields.label} is HTML, not text: --extract resiliparse (or trafilatura, or module:function) "
            "makes text of it"
        )
    return extract(html, fields.extract)


def _excerpt(value: object) -> str:
    return repr(value)[:_EXCERPT]
