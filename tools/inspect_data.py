"""`mixstream inspect`: its options, its help, and how they come together. It writes nothing but its result.

What is told of a dataset comes from its index alone, apart from samples and `--count`; so it costs one request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from mixstream.errors import ConfigError, MixstreamError
from mixstream.formats import ShardInfo, decode_sample, fixed_array, ndarray_dtype, read_offsets
from mixstream.storage import Retry

from .console import Console
from .crew import in_parallel
from .dataset_at import Dataset, find_datasets
from .inspect_samples import Sample, read_samples
from .inspect_show import show
from .inspect_text import Texts
from .shard_at import leaving_out, memory_of, read_raw, require_codecs, stored_bytes
from .shown import message_of, notes_of, printable

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
_TOKENS = "tokens"
_AT_ONCE = 8  # shards, or datasets
_ROOM = 1 << 30  # bytes of shards in memory at once


def inspect(
    url: Annotated[str, Parameter(name="URL")],
    /,
    *,
    samples: int = 3,
    tokenizer: str | None = None,
    count: _Flag = False,
    allow_unsafe_types: _Flag = False,
    download_retry: int = 2,
    download_timeout: float = 60.0,
    as_json: _Json = False,
) -> int:
    """Show what datasets hold: domains, shards, tokens, columns, samples.

    mixstream inspect shards/
    mixstream inspect s3://bucket/shards --samples 0
    mixstream inspect gs://bucket/web/train --tokenizer llama/tokenizer.json
    mixstream inspect hf://datasets/org/name --count --json

    URL is what a Stream's `remote` can be: a path, file://, s3://, gs://,
    az://, http(s)://, or what fsspec knows; of one dataset, or of a directory
    above several, as `mixstream convert` makes them.

    TOKENS. Known where convert wrote the index, and where all rows are as
    long (ndarray:uint16:2048). Else --count reads all shards to count them.

    SAMPLES are spread over the first shard that holds any. Of a raw shard only
    their bytes are fetched; a packed one is fetched whole. Long values are cut
    short, bytes are shown by their length, and nothing from the data reaches
    the terminal unescaped. Pickled columns are not decoded, since that runs
    code out of the shard: --allow-unsafe-types.

    Exit status: 0, 1 if something could not be read, 2 wrong use.

    Args:
        url: a dataset, or a directory above datasets.
        samples: how many samples to show of each dataset.
        tokenizer: shows tokens as text too: `bytes`, or the path of a tokenizer.json; datasets made with the bytes
            tokenizer of convert need none.
        count: read all shards, and count tokens where the index does not tell how many there are.
        allow_unsafe_types: unpickle pickled columns; only for data whose origin you trust.
        download_retry: attempts of a request.
        download_timeout: seconds that a request may take.
        as_json: print one JSON document, not tables.
    """
    if samples < 0:
        raise ConfigError(f"--samples {samples}: give 0 or more")
    retry, console = Retry(attempts=download_retry, timeout=download_timeout), Console(as_json=as_json)
    texts = Texts(tokenizer)
    found = find_datasets([url], retry, list_files=False)
    for dataset in found.datasets if samples or count else ():
        require_codecs(dataset.index.shards if dataset.index is not None else ())
    told = [_describe(dataset) for dataset in found.datasets]
    if count:
        _count(found.datasets, told, retry, console)
    if samples:
        usable = [at for at, dataset in enumerate(found.datasets) if dataset.index is not None]

        def look(at: int) -> Sequence[Sample]:
            return read_samples(found.datasets[at], samples, retry=retry, allow_unsafe_types=allow_unsafe_types)

        with closing(in_parallel(_caught(look), usable, workers=_AT_ONCE)) as looked:
            for at, result in looked:
                if isinstance(result, Exception):
                    told[at]["trouble"] = _trouble(result)
                else:
                    about = found.datasets[at].about
                    told[at]["samples_shown"] = [sample.describe(texts.reader(about)) for sample in result]
    notes = list(dict.fromkeys([*found.notes, *texts.notes]))
    for note in notes:
        console.note(f"note: {printable(note)}")
    failed = any(each["trouble"] for each in told)
    document = {"status": "faults" if failed else "ok", "datasets": told, "notes": notes}
    console.result(document, *show(document))
    return 1 if failed else 0


def _caught(act: Any) -> Any:
    """Return `act`, giving back what goes wrong with the data instead of raising it."""

    def guarded(thing: Any) -> Any:
        try:
            return act(thing)
        except ConfigError:  # a package is missing: for the user to mend
            raise
        except (MixstreamError, OSError) as error:
            return error

    return guarded


def _trouble(error: Exception) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": message_of(error), "notes": notes_of(error)}


def _describe(dataset: Dataset) -> dict[str, Any]:
    """Return what the index tells."""
    told: dict[str, Any] = {"name": dataset.name, "url": dataset.store.url, "trouble": None}
    if dataset.index is None:
        assert dataset.trouble is not None
        return {**told, "trouble": _trouble(dataset.trouble)}
    shards, about = dataset.index.shards, dataset.about
    tokens, source = _tokens(shards, about)
    layouts = {(info.column_names, info.column_encodings): info.columns for info in shards}
    sizes = [info.raw.bytes for info in shards]
    return {
        **told,
        "shards": len(shards),
        "samples": sum(info.samples for info in shards),
        "tokens": tokens,
        "tokens_from": source,
        "raw_bytes": sum(sizes),
        "packed_bytes": sum(info.zip.bytes for info in shards if info.zip is not None) or None,
        "smallest_shard": min(sizes, default=None),
        "largest_shard": max(sizes, default=None),
        "compression": sorted({info.compression or "none" for info in shards}),
        "hashes": sorted({name for info in shards for name in info.hashes}),
        "columns": list(layouts.values()),
        "about": dict(about) if _is_plain(about) else {},
        "samples_shown": [],
    }


def _is_plain(about: Mapping[str, Any]) -> bool:
    try:
        return bool(json.dumps(about, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False


def _tokens(shards: Sequence[ShardInfo], about: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Return the tokens of a dataset as far as its index tells them, and what tells."""
    total = 0
    for info in shards:
        fixed = fixed_array(info.columns.get(_TOKENS, ""))
        if fixed is None or len(fixed[1]) != 1:
            break
        total += info.samples * fixed[1][0]
    else:
        if shards:
            return total, "row length"
    known = about.get("tokens")
    return (known, "convert") if isinstance(known, int) and known >= 0 else (None, None)


def _count(datasets: Sequence[Dataset], told: Sequence[dict[str, Any]], retry: Retry, console: Console) -> None:
    """Count the tokens of the datasets whose index does not tell them, into `told`."""
    tasks = [
        (at, dataset, info)
        for at, dataset in enumerate(datasets)
        if dataset.index is not None and told[at]["tokens"] is None
        for info in dataset.index.shards
        if ndarray_dtype(info.columns.get(_TOKENS, "")) is not None or info.columns.get(_TOKENS) == "ndarray"
    ]

    def count(task: tuple[int, Dataset, ShardInfo]) -> int:
        _, dataset, info = task
        return _tokens_in(read_raw(dataset.store, info, retry), info)

    with (
        console.progress("count", total=sum(stored_bytes(info) for _, _, info in tasks)) as advance,
        closing(
            in_parallel(_caught(count), tasks, workers=_AT_ONCE, cost=lambda task: memory_of(task[2]), room=_ROOM)
        ) as counted,
    ):
        for (at, _, info), result in counted:
            advance(stored_bytes(info))
            if isinstance(result, Exception):
                told[at]["trouble"] = _trouble(result)
            else:
                told[at].update(tokens=(told[at]["tokens"] or 0) + result, tokens_from="counted")
    for each in told:
        if each["trouble"] and each.get("tokens_from") == "counted":
            each.update(tokens=None, tokens_from=None)  # a part of them is no answer


def _tokens_in(raw: bytes, info: ShardInfo) -> int:
    offsets = read_offsets(raw, info, where=info.raw.basename)
    only = leaving_out(info, lambda name, _: name == _TOKENS)
    view, total = memoryview(raw), 0
    for row in range(info.samples):
        where = f"{info.raw.basename}, sample {row}"
        total += np.size(decode_sample(view[offsets[row] : offsets[row + 1]], only, where=where)[_TOKENS])
    return total
