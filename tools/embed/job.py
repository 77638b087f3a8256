"""An embedding job: datasets → domains → parts → tasks; it skips what is done, runs the rest, and merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError
from mixstream.formats import fixed_row_tokens
from mixstream.selection import Scores, Selection, ShardTable, TextColumn, choose_column, merge_scores, provenance
from mixstream.selection.embedders import EmbedderSpec, hash_model_file
from mixstream.storage import is_local, local_path, place_of

from ..shared.console import Console
from ..shared.domains import NamedDataset
from ..shared.options import Reading
from ..shared.outputs import Output
from ..shared.parts import PartOptions, run_parts
from ..shared.token_texts import TokenizerFile, tokenizer_of
from .work import Counting, EmbedTask, PartDone, columns_of, embed_part, rows_within

_ROWS_PER_PART, _LEAST = 8192, 512
_FEW, _FEW_STATIC = 256, 8192  # rows for which more processes would only take time to start


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """The options of a job that are the same for all domains. See `mixstream embed --help`."""

    output: Output
    spec: EmbedderSpec
    column: str | None = None
    tokenizer: TokenizerFile | None = None
    dtype: str = "f2"
    within: str | None = None
    reading: Reading = Reading()  # noqa: RUF009  # frozen


@dataclass(frozen=True, kw_only=True)
class DomainJob:
    """What is to be done for one domain.

    Attributes:
        name: of the domain.
        out: directory of its artefact.
        parts: number of parts.
        rows: stored rows.
        wanted: how many of them are embedded.
        wanted_P: the same for each part.
        tasks: all parts.
        todo: those that are still to be done.
    """

    name: str
    out: Path
    parts: int
    rows: int
    wanted: int
    wanted_P: Sequence[int]
    tasks: Sequence[EmbedTask]
    todo: Sequence[EmbedTask]

    def bytes(self) -> int:
        """Return the size of the artefact's columns."""
        task = self.tasks[0]
        columns = columns_of(task.dimensions, task.dtype, counted=task.counting.by != "nothing")
        row = sum(column.type.itemsize * max(1, *column.shape, 1) for column in columns) + 1
        return self.rows * row


def plan_job(datasets: Sequence[NamedDataset], settings: EmbedSettings, options: PartOptions) -> list[DomainJob]:
    """Return what is to be done for each domain, and check all of it before anything is written.

    Raises:
        ConfigError: the options do not fit a dataset.
        OutputExistsError: there is output of other options.
        SelectionError: `within` does not fit a dataset.
    """
    dimensions = settings.spec.dimensions() if settings.spec.kind not in ("npy", "parquet") else None
    return [_plan_domain(dataset, settings, options, dimensions) for dataset in datasets]


def run_job(jobs: Sequence[DomainJob], output: Output, options: PartOptions, console: Console) -> Iterator[PartDone]:
    """Do all parts that are not done yet; the results of those are yielded, in any order."""
    output.clear((job.out for job in jobs if job.todo), options=options)
    tasks: list[EmbedTask] = []
    total = done = 0
    for job in jobs:
        asked = sum(job.wanted_P[i] for i, _ in options.todo(job.parts))
        total += asked
        done += asked - sum(job.wanted_P[task.part[0]] for task in job.todo)
        tasks += job.todo
    if done:
        console.note(f"going on: {done:,} of {total:,} rows are done")
    gpus = 1 if any(task.spec.device.startswith("cuda") for task in tasks) else 0
    few = _FEW if any(task.spec.kind in ("encoder", "function") for task in tasks) else _FEW_STATIC
    options = options.placed(tasks=len(tasks), rows=total - done, few=few)
    yield from run_parts(
        embed_part, tasks, options=options, console=console, label="embed", total=total, done=done, gpus=gpus
    )


def merge_job(job: DomainJob) -> Scores:
    """Make one artefact of a domain's parts."""
    return merge_scores(job.out)


def _plan_domain(
    dataset: NamedDataset, settings: EmbedSettings, options: PartOptions, dimensions: int | None
) -> DomainJob:
    shards, out = dataset.index.shards, settings.output.place(dataset.name)
    table = ShardTable.of(shards)
    vectors = settings.spec.vectors(table, dataset.name)
    reading = _reading(dataset, settings, embeds=vectors is None)
    inputs = _inputs(dataset, settings, table, reading)
    made = provenance(
        inputs, model=settings.spec.model, dataset=place_of(dataset.url), device=settings.spec.device, **_versions()
    )
    given = options.parts is not None or options.part is not None
    parts = options.count(table.rows, per_part=_ROWS_PER_PART, least=_LEAST)
    parts = parts if given else min(parts, max(len(shards), 1))
    todo = settings.output.parts_to_do(out, made, options=options, count=parts)
    task = EmbedTask(
        domain=dataset.name, url=dataset.url, out=str(out.absolute()), part=(0, parts), spec=settings.spec,
        dimensions=dimensions if vectors is None and dimensions is not None else _dimensions(vectors),
        dtype=settings.dtype, column=reading.column, tokenizer=reading.tokenizer, counting=reading.counting,
        within=_absolute(settings.within),
        reading=settings.reading.for_workers(), made=made, overwrite=settings.output.overwrite,
    )  # fmt: skip
    wanted_S = [shard.samples for shard in shards]
    if settings.within is not None:
        wanted = rows_within(settings.within, dataset.name, shards)
        wanted_S = [len(wanted(number)) for number in range(len(shards))]
    borders = [table.part(i, parts) for i in range(parts)]
    return DomainJob(
        name=dataset.name, out=out, parts=parts, rows=table.rows, wanted=sum(wanted_S),
        wanted_P=[sum(wanted_S[first:end]) for first, end in borders],
        tasks=[replace(task, part=(i, parts)) for i in range(parts)],
        todo=[replace(task, part=part) for part in todo],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """How rows are read: the column (None: no row is read), what decodes its tokens, and how tokens are counted."""

    column: TextColumn | None
    tokenizer: TokenizerFile | None
    counting: Counting


def _reading(dataset: NamedDataset, settings: EmbedSettings, *, embeds: bool) -> _Reading:
    column = _column(dataset, settings, needed=embeds)
    if embeds and column is not None and column.kind == "text" and settings.spec.feed == "tokens":
        raise ConfigError(
            f"--feed tokens: column {column.name!r} of domain {dataset.name!r} holds texts; name one of token arrays "
            "with --column, or leave out --feed"
        )
    tokenizer = None
    if embeds and column is not None and column.kind == "tokens" and settings.spec.feed == "text":
        tokenizer = tokenizer_of(dataset.about, settings.tokenizer, domain=dataset.name)
    counting = _counting(dataset, settings, column)
    unread = not embeds and counting.by in ("nothing", "fixed")
    return _Reading(column=None if unread else column, tokenizer=tokenizer, counting=counting)


def _absolute(url: str | None) -> str | None:
    """Return a local path as an absolute one: a worker on another machine has another current directory."""
    return str(local_path(url).absolute()) if url is not None and is_local(url) else url


def _dimensions(vectors: Any) -> int:
    assert vectors is not None, "an embedder's dimensions are known before"
    return vectors.dimensions


def _column(dataset: NamedDataset, settings: EmbedSettings, *, needed: bool) -> TextColumn | None:
    """Return the column of the text; without a text to embed, the one whose tokens can be counted, if there is one."""
    where = f"domain {dataset.name!r}"
    if needed or settings.column is not None:
        return choose_column(dataset.index.shards, settings.column, where=where)
    try:
        return choose_column(dataset.index.shards, None, where=where)
    except ConfigError:
        return None


def _counting(dataset: NamedDataset, settings: EmbedSettings, column: TextColumn | None) -> Counting:
    fixed = fixed_row_tokens(shard.columns for shard in dataset.index.shards)
    if column is not None and column.kind == "tokens":
        known = fixed is not None and column.name == "tokens"
        return Counting(by="fixed", fixed=fixed or 0) if known else Counting(by="rows")
    if column is not None and settings.tokenizer is not None:
        return Counting(by="tokenizer", tokenizer=settings.tokenizer)
    return Counting(by="embedder" if settings.spec.kind in ("static", "encoder") else "nothing")


def _inputs(dataset: NamedDataset, settings: EmbedSettings, table: ShardTable, reading: _Reading) -> Mapping[str, Any]:
    """Return everything that decides the bytes of the artefact."""
    spec = settings.spec
    embedder = dict(spec.identity)
    if spec.kind in ("npy", "parquet"):
        embedder["files"] = {path.name: hash_model_file(path) for path in spec.for_domain(dataset.name)}
    column, tokenizer, counting = reading.column, reading.tokenizer, reading.counting
    counter = counting.tokenizer.hash if counting.tokenizer is not None else None
    within = Selection.open(settings.within, domain=dataset.name).id if settings.within is not None else None
    return {
        "command": "embed",
        "domain": dataset.name,
        "shards": table.digest,
        "embedder": embedder,
        "column": column.name if column is not None else None,
        "tokenizer": tokenizer.hash if tokenizer is not None else None,
        "tokens_by": [counting.by, counter],
        "dtype": settings.dtype,
        "within": within,
    }


def _versions() -> dict[str, Any]:
    """Return the versions of the packages that compute vectors."""
    from importlib import metadata

    versions = {}
    for name in ("numpy", "tokenizers", "torch", "transformers"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"packages": versions}
