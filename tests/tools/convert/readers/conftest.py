"""What the tests of readers share: all documents of a source, with what was left out and what was bad."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import DamagedFileError, Slice, SourceError
from mixstream_tools.convert.readers import READERS, Origin, read_documents
from mixstream_tools.convert.sources.sources import find_sources


@dataclass
class Reading:
    """What was read of a source."""

    formats: set[str] = field(default_factory=set)
    documents: list[str] = field(default_factory=list)
    origins: list[Origin | None] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def read() -> Callable[..., Reading]:
    """Read all documents of a source in `slices` slices a file; bad ones are raised, or noted with `skip`."""

    def run(
        source: Path | str,
        fields: Fields = Fields(text="text"),  # noqa: B008  # frozen
        *,
        slices: int = 1,
        skip: bool = False,
        choice: Choice = Choice(),  # noqa: B008  # frozen
    ) -> Reading:
        found = find_sources(
            [str(source)], out=Path("/no/such/output"), choice=choice, by_key=False, fields=fields, skip=skip
        )
        reading = Reading(skipped={reason: count for (reason, _), count in found.skipped.items()})

        def on_bad(fact: str, *, left_out: str = "", **about: object) -> None:
            if left_out:
                reading.left_out[left_out] += 1
            elif not skip:
                raise SourceError(fact)
            else:
                reading.bad.append(fact)

        for group in found.groups:
            for file in group.files:
                reading.formats.add(file.format)
                for at in range(slices):
                    part = Slice(file=file, start=file.size * at // slices, stop=file.size * (at + 1) // slices)
                    try:
                        for piece in read_documents(READERS[file.format], part, fields, on_bad, lambda size: None):
                            if piece.begins:
                                reading.documents.append(piece.text)
                                reading.origins.append(piece.origin)
                                reading.domains.append(piece.domain or group.name)
                            else:
                                reading.documents[-1] += piece.text
                    except DamagedFileError as error:
                        on_bad(str(error))
        return reading

    return run
