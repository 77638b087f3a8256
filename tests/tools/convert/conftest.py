"""What tests of source formats share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.source_files import Slice, SourceError
from mixstream_tools.convert.readers import READERS, read_documents
from mixstream_tools.convert.sources.sources import list_file

TEXT = Fields(text="text")


@pytest.fixture(scope="session")
def read_slices() -> Callable[..., list[tuple]]:
    """Read a file in slices, as parts do: its documents as (record, text, kept …); bad ones raise, or go to `bad`."""

    def read(path: Path, *, slices: int = 1, fields: Fields = TEXT, bad: list[str] | None = None) -> list[tuple]:

        def on_bad(fact: str, **about: object) -> None:
            if bad is None:
                raise SourceError(fact)
            bad.append(fact)

        def on_bytes(size: int) -> None:
            nonlocal seen
            seen += size

        file = list_file(str(path), path.stat(), name=path.name)
        reader, documents, seen = READERS[file.format], [], 0
        for at in range(slices):
            piece = Slice(file=file, start=file.size * at // slices, stop=file.size * (at + 1) // slices)
            for part in read_documents(reader, piece, fields, on_bad, on_bytes):
                if part.origin is not None:
                    documents.append((part.origin.record, part.text, *part.origin.kept))
                else:
                    record, before, *kept = documents[-1]
                    documents[-1] = (record, before + part.text, *kept)
        assert seen == file.size or bad
        return documents

    return read
