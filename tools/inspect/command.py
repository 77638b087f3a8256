"""`mixstream inspect`: its options, its help, and the flow of the command. It only writes its result.

The description of a dataset is read from its index, with one request; only samples and `--count` read shards.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import msgspec
import numpy as np
from cyclopts import Parameter

from mixstream.documents import Documents
from mixstream.errors import ConfigError, MixstreamError
from mixstream.formats import ShardInfo, decode_sample, fixed_row_tokens, ndarray_dtype, read_offsets
from mixstream.storage import Retry, redact

from ..shared.console import Console, show_bytes
from ..shared.datasets import Dataset, find_datasets
from ..shared.numbers import Count, MaybePositive, Overlap, Seconds
from ..shared.options import Text, token_options
from ..shared.parallel import in_parallel
from ..shared.safe_text import message_of, notes_of, printable
from ..shared.shards import leaving_out, memory_of, read_raw, require_codecs, stored_bytes
from ..shared.texts import Texts, ToText
from .cards import Cards, find_cards
from .documents import describe_documents, documents_in
from .html import render
from .page import make_page, write_page
from .samples import Sample, read_samples
from .show import show
from .token_files import describe_tokens, read_token_samples

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
_File = Annotated[str | None, Parameter(allow_leading_hyphen=True)]  # `-` is stdout
_TOKENS = "tokens"
_AT_ONCE = 8  # shards, or datasets
_ROOM = 1 << 30  # bytes of shards in memory at once


def inspect(
    url: Annotated[str, Parameter(name="URL")],
    /,
    *,
    samples: Count = 3,
    tokenizer: str | None = None,
    count: _Flag = False,
    allow_unsafe_types: _Flag = False,
    html: _File = None,
    seq_len: MaybePositive = None,
    overlap: Overlap = 0,
    dtype: Text = None,
    token_column: Text = None,
    download_retry: Count = 2,
    download_timeout: Seconds = 60.0,
    as_json: _Json = False,
) -> int:
    """Show the contents of datasets: domains, shards, tokens, columns, samples.

    mixstream inspect shards/
    mixstream inspect s3://bucket/shards --samples 0
    mixstream inspect gs://bucket/web/train --tokenizer llama/tokenizer.json
    mixstream inspect hf://datasets/org/name --count --json
    mixstream inspect s3://bucket/shards --html card.html

    URL is a value of a Stream's `remote`: a path, file://, s3://, gs://, az://,
    http(s)://, or what fsspec supports. It names one dataset, or a directory
    above several, as `mixstream convert` writes them.

    TOKENS. The number of tokens is known if convert wrote the index, or if all
    rows have one length (ndarray:uint16:2048). Otherwise --count reads all
    shards to count them.

    SAMPLES are spread over the first shard that has any. Of a raw shard, only
    the bytes of the samples are fetched; a compressed shard is fetched whole.
    Long values are truncated, bytes are shown by their length, and text from
    the data is escaped before it reaches the terminal. Pickled columns are not
    decoded, because unpickling can run code; --allow-unsafe-types permits it.
    If convert kept the documents, it shows which of them lie in each sample,
    and how long documents are.

    TOKEN FILES (.idx and .bin of Megatron, .ds, .npy) are shown as documents, or
    with --seq-len as the rows that training reads. What says nothing of its
    dtype needs --dtype.

    CARD. Of an output of convert, its data card is shown too: documents, their
    lengths, copies, what was left out. --html FILE writes all of it as one page
    for people, with plots, and samples in which the borders of documents can be
    seen. The page needs no network and has no scripts. `-` writes it to stdout,
    instead of the tables. Tokens are shown as text with the tokenizer's copy
    beside the datasets, if there is one.

    Exit status: 0, 1 if something could not be read, 2 wrong use.

    Args:
        url: a dataset, or a directory above datasets.
        samples: number of samples to show of each dataset.
        tokenizer: to show tokens as text: what `convert --tokenizer` takes, as OUT/tokenizer; not needed for datasets
            that convert wrote with the tokenizer `bytes`.
        count: if the index does not have the number of tokens, read all shards to count them.
        seq_len: read token files as rows of this many tokens; default: as documents.
        overlap: 1 if each row begins with the last token of the one before.
        dtype: of the tokens of files that do not say it, such as uint16.
        token_column: of Parquet and Arrow files, the column of token ids; default: input_ids, else tokens.
        html: write a page about the datasets to this file; `-` for stdout.
        allow_unsafe_types: unpickle pickled columns; only for data whose origin you trust.
        download_retry: attempts of each request.
        download_timeout: timeout of a request in seconds.
        as_json: print one JSON document, not tables.
    """
    if samples < 0:
        raise ConfigError(f"--samples {samples}: give 0 or more")
    _check_html(html, as_json=as_json)
    retry, console = Retry(attempts=download_retry, timeout=download_timeout), Console(as_json=as_json)
    texts = Texts(tokenizer)
    options = token_options(seq_len, overlap, dtype, token_column)
    datasets, notes = find_datasets([url], retry, list_files=False, options=options)
    for dataset in datasets if samples or count else ():
        require_codecs(dataset.shards)
    described = [_describe(dataset) for dataset in datasets]
    cards = find_cards(datasets, retry)
    for at, card in cards.of.items():
        described[at]["card"] = msgspec.to_builtins(card)
    if count:
        _count(datasets, described, retry, console)
    _find_tokenizer(cards, datasets if samples else (), texts, retry)
    shown = _sample(datasets, described, texts, samples, retry=retry, allow_unsafe_types=allow_unsafe_types)
    document = _document(described, cards, [*notes, *cards.notes, *texts.notes])
    for note in document["notes"]:
        console.note(f"note: {printable(note)}")
    if html is not None:
        page = render(
            make_page(document, url=url, datasets=datasets, cards=cards, samples=shown, texts=texts, retry=retry)
        )
        write_page(page, html)
        if html != "-":
            console.note(f"page: {html} ({show_bytes(len(page.encode()))})")
    if html != "-":
        console.result(document, *show(document))
    return 0 if document["status"] == "ok" else 1


def _document(described: Sequence[dict[str, Any]], cards: Cards, notes: Sequence[str]) -> dict[str, Any]:
    """Return the document of `--json`."""
    failed = any(each["trouble"] for each in described)
    document: dict[str, Any] = {"status": "faults" if failed else "ok", "datasets": described}
    document["notes"] = list(dict.fromkeys(notes))
    if cards.whole is not None:
        document |= {"rejects": cards.whole.rejects, "tokenizer_files": cards.whole.tokenizer_files}
    return document


def _sample(
    datasets: Sequence[Dataset],
    described: Sequence[dict[str, Any]],
    texts: Texts,
    count: int,
    *,
    retry: Retry,
    allow_unsafe_types: bool,
) -> dict[int, Sequence[Sample]]:
    """Read samples of the datasets and describe them in `described`; returns them by number of the dataset."""
    usable = [at for at, dataset in enumerate(datasets) if dataset.trouble is None and count]
    found: dict[int, Sequence[Sample]] = {}

    def look(at: int) -> tuple[Sequence[Sample], _Looked]:
        if (tokens := datasets[at].tokens) is not None:
            samples = read_token_samples(tokens, count, retry=retry)
            return samples, (None, [sample.describe(texts.reader({})) for sample in samples])
        samples = read_samples(datasets[at], count, retry=retry, allow_unsafe_types=allow_unsafe_types)
        return samples, _looked(datasets[at], samples, texts.reader(datasets[at].about), retry)

    with closing(in_parallel(_caught(look), usable, workers=_AT_ONCE)) as looked:
        for at, result in looked:
            if isinstance(result, Exception):
                described[at]["trouble"] = _trouble(result)
                continue
            found[at], (documents, described[at]["samples_shown"]) = result
            if documents is not None:
                described[at]["documents"] = documents
    return found


def _find_tokenizer(cards: Cards, datasets: Sequence[Dataset], texts: Texts, retry: Retry) -> None:
    """Let `texts` use the copy of the tokenizer that most datasets name."""
    made_with = [dataset.about.get("tokenizer") for dataset in datasets]
    hashes = Counter(str(made["hash"]) for made in made_with if isinstance(made, dict) and "hash" in made)
    if cards.whole is not None and cards.store is not None and hashes:
        texts.fetch_copy(cards.store, cards.whole, retry, wanted=hashes.most_common(1)[0][0])


_Looked = tuple[dict[str, Any] | None, list[dict[str, Any]]]
"""What is shown of a dataset's documents, None if it keeps none; and of its samples."""


def _looked(dataset: Dataset, samples: Sequence[Sample], to_text: ToText | None, retry: Retry) -> _Looked:
    shown = [sample.describe(to_text) for sample in samples]
    documents = Documents.of(dataset.store, dataset.about, retry=retry)
    if documents is None:
        return None, shown
    for sample, entry in zip(samples, shown):
        entry["documents"] = documents_in(documents, sample, to_text)
    return describe_documents(documents, dataset.about.get("documents")), shown


def _caught(act: Any) -> Any:
    """Return `act`, but with errors of the data returned and not raised."""

    def guarded(item: Any) -> Any:
        try:
            return act(item)
        except ConfigError:  # a package is missing: the user has to install it
            raise
        except (MixstreamError, OSError) as error:
            return error

    return guarded


def _trouble(error: Exception) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": message_of(error), "notes": notes_of(error)}


def _describe(dataset: Dataset) -> dict[str, Any]:
    """Return the description of a dataset from its index."""
    document: dict[str, Any] = {"name": dataset.shown, "url": redact(dataset.store.url), "trouble": None}
    if dataset.trouble is not None:
        return {**document, "trouble": _trouble(dataset.trouble)}
    if dataset.tokens is not None:
        return document | describe_tokens(dataset.tokens)
    shards, about = dataset.shards, dataset.about
    tokens, source = _tokens(shards, about)
    layouts = {(info.column_names, info.column_encodings): info.written_columns for info in shards}
    sizes, formats = [info.raw_bytes for info in shards], {info.format for info in shards}
    return {
        **document,
        "shards": len(shards),
        "samples": sum(info.samples for info in shards),
        "tokens": tokens,
        "tokens_from": source,
        "raw_bytes": sum(sizes),
        "packed_bytes": sum(info.zip_bytes for info in shards) or None,
        "smallest_shard": min(sizes, default=None),
        "largest_shard": max(sizes, default=None),
        **({} if formats <= {"mds"} else {"formats": sorted(formats)}),
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
    """Return the number of tokens of a dataset and its source; None and None if the index does not have it."""
    fixed = [(info.samples, n) for info in shards if (n := fixed_row_tokens([info.columns])) is not None]
    if shards and len(fixed) == len(shards):
        return sum(samples * n for samples, n in fixed), "row length"
    known = about.get("tokens")
    return (known, "convert") if isinstance(known, int) and known >= 0 else (None, None)


def _count(datasets: Sequence[Dataset], described: Sequence[dict[str, Any]], retry: Retry, console: Console) -> None:
    """Count the tokens of the datasets whose index does not have them, and write them into `described`."""
    tasks = [
        (at, dataset, info)
        for at, dataset in enumerate(datasets)
        for info in dataset.shards
        if described[at]["tokens"] is None
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
            document = described[at]
            if isinstance(result, Exception):
                document["trouble"] = _trouble(result)
            else:
                document.update(tokens=(document["tokens"] or 0) + result, tokens_from="counted")
    for each in described:
        if each["trouble"] and each.get("tokens_from") == "counted":
            each.update(tokens=None, tokens_from=None)  # the count is incomplete


def _tokens_in(raw: bytes, info: ShardInfo) -> int:
    offsets = read_offsets(raw, info, where=info.raw.basename)
    only = leaving_out(info, lambda name, _: name == _TOKENS)
    view, total = memoryview(raw), 0
    for row in range(info.samples):
        where = f"{info.raw.basename}, sample {row}"
        total += np.size(decode_sample(view[offsets[row] : offsets[row + 1]], only, where=where)[_TOKENS])
    return total


def _check_html(html: str | None, *, as_json: bool) -> None:
    if html is not None and not html.strip():
        raise ConfigError("--html is empty: give the name of a file, or - for stdout")
    if html == "-" and as_json:
        raise ConfigError("--html - and --json both write to stdout: give --html a file")
