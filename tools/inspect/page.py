"""What was found at a URL → the page of `--html`, and the file that it is written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.storage import Retry, redact, write_whole

from ..shared.cards import DatasetCard
from ..shared.datasets import Dataset
from ..shared.parallel import in_parallel
from ..shared.texts import Texts
from .borders import Segment, by_end_token, is_row
from .cards import Cards
from .html import IN_SAMPLES, Page, Row, Shown, TokenReader, describe_columns
from .samples import Sample
from .segments import caught_segments

_TOKENS = "tokens"
_AT_ONCE = 8


def make_page(
    document: Mapping[str, Any],
    *,
    url: str,
    datasets: Sequence[Dataset],
    cards: Cards,
    samples: Mapping[int, Sequence[Sample]],
    texts: Texts,
    retry: Retry,
) -> Page:
    """Return what the page shows.

    Args:
        document: of `--json`.
        url: as the user gave it.
        datasets: that were found.
        cards: of them.
        samples: of them, by number of the dataset.
        texts: how their tokens are read.
        retry: attempts and timeout of each request: the documents in the rows are read from the sidecars.
    """
    described = document["datasets"]
    place = redact(url).rstrip("/")
    readable = [at for at, dataset in enumerate(datasets) if dataset.trouble is None]
    notes: list[str] = []

    def look(at: int) -> dict[int, tuple[Segment, ...]]:
        rows = {each.row: len(ids) for each in samples.get(at, ()) if (ids := _ids(each)) is not None}
        return caught_segments(datasets[at], rows, retry, notes)

    sampled = sorted(readable, key=lambda at: -(described[at]["tokens"] or 0))[:IN_SAMPLES]
    with closing(in_parallel(look, sampled, workers=_AT_ONCE)) as looked:
        segments = dict(looked)
    shown = [
        _shown(
            datasets[at],
            described[at],
            cards.of.get(at),
            samples.get(at, ()),
            texts=texts,
            segments=segments.get(at, {}),
        )
        for at in readable
    ]
    troubles = [(str(each["name"]), str(each["trouble"]["message"])) for each in described if each["trouble"]]
    return Page(
        title=place.rpartition("/")[2] or place,
        url=place if "://" in place else "",
        datasets=shown,
        card=cards.whole,
        troubles=troubles,
        notes=[*document["notes"], *notes],
    )


def write_page(page: str, file: str) -> None:
    """Write the page to a file, whole or not at all; `-` is stdout.

    Raises:
        ConfigError: the file cannot be written.
    """
    data = page.encode()
    if file == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        with write_whole(Path(file), suffix=f".{os.getpid()}.tmp") as page_file:
            page_file.write(data)
    except OSError as error:
        raise ConfigError(f"--html {file}: it cannot be written: {error.strerror}; give another file") from error


def _shown(
    dataset: Dataset,
    described: Mapping[str, Any],
    card: DatasetCard | None,
    samples: Sequence[Sample],
    *,
    texts: Texts,
    segments: Mapping[int, tuple[Segment, ...]],
) -> Shown:
    rows: list[Row] = []
    others: list[tuple[str, Mapping[str, str]]] = []
    for sample, about in zip(samples, described.get("samples_shown", ())):
        title = f"{about['shard']}, sample {about['sample']:,}"
        columns = describe_columns(about["columns"] or {})
        ids = _ids(sample)
        if ids is None:
            others.append((title, columns if sample.values is not None else {"": "too long to show"}))
            continue
        columns.pop(_TOKENS, None)
        eos, bos = _ends(dataset.about)
        known = segments.get(sample.row) or (None if eos is None else by_end_token(ids, eos, bos))
        rows.append(Row(title=title, ids=ids, segments=known, columns=columns))
    reader = TokenReader(to_text=texts.reader(dataset.about), special=texts.special(dataset.about))
    return Shown(name=dataset.shown, described=described, card=card, rows=rows, reader=reader, samples=others)


def _ids(sample: Sample) -> NDArray[np.integer] | None:
    """The tokens of a sample, int [tokens]; None if it has none."""
    found = None if sample.values is None or _TOKENS in sample.hidden else sample.values.get(_TOKENS)
    return found if is_row(found) else None  # pyright: ignore[reportReturnType]


def _ends(about: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The tokens that end and begin documents, if the index says so."""
    made_with = about.get("tokenizer")
    if not isinstance(made_with, dict):
        return None, None
    eos, bos = (made_with.get(name) for name in ("eos", "bos"))
    return eos if isinstance(eos, int) else None, bos if isinstance(bos, int) else None
