"""`mixstream pack`: its options, its help, and the flow of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.packing import Algorithm, LongDocuments, Packing, PackingSettings, check_pad, merge_packing, part_is_done
from mixstream.selection import Selection, ShardTable, discard, provenance
from mixstream.storage import is_local, local_path, place_of

from ..shared.console import Console, table
from ..shared.domains import NamedDataset
from ..shared.numbers import MaybeCount, MaybeSeed, Positive
from ..shared.options import DocumentReading, Json, Text
from ..shared.outputs import Output
from ..shared.parts import PartOptions, run_parts
from .work import PackedDomain, PackTask, pack_part

_PER_PART, _LEAST, _FEW = 4_000_000, 100_000, 400_000  # samples
_NO_PARTS = PartOptions()


def pack(
    *urls: Annotated[str, Parameter(name="DATASET")],
    seq_len: Positive,
    algorithm: Algorithm = "best-fit",
    long_documents: LongDocuments = "cut",
    selection: Text = None,
    seed: MaybeSeed = None,
    pad_id: MaybeCount = None,
    eos_id: MaybeCount = None,
    columns: Text = None,
    reading: DocumentReading = DocumentReading(),  # noqa: B008  # frozen
    parts: PartOptions = _NO_PARTS,
    output: Output,
    as_json: Json = False,
) -> int:
    """Pack documents into rows of one length, as an index beside the shards.

    mixstream pack shards/ --seq-len 4096 --out packed/
    mixstream pack s3://corpus/web --seq-len 8192 --selection sel/best \\
        --out packed/best8k
    mixstream pack shards/ --seq-len 2048 --algorithm concat --out joined/
    mixstream pack web.idx --seq-len 4096 --pad-id 0 --out packed/web

    In training:
    ms.Stream(remote="shards/web", packing="packed/web")

    No shard is rewritten: a packing says which tokens of which documents stand
    in which row, 12 bytes for each piece of a document. So another length,
    another selection or another seed costs a run of this command.

    ALGORITHMS
      best-fit   longest document first, into the row with the least room that
                 is enough: few documents are cut, hardly any padding
      first-fit  the same, into the first row with room; slower, as good
      concat     documents one after the other, cut every --seq-len tokens: no
                 padding, most documents are cut. The end of each shard that
                 fills no row is dropped
    Best-fit and first-fit cut documents that are longer than a row, and pack
    what is left of them (Ding et al., arXiv 2404.10830). --long-documents
    truncate keeps their first row only, drop leaves them out.

    DOCUMENTS are the samples, if tokens have any length (convert --rows
    documents, token files with borders). In rows of one length, they are where
    the dataset says (convert keeps that), or end with --eos-id. A document that
    two shards share is packed as two. Token files whose documents end with
    --eos-id are read as Stream(seq_len=..., eos_id=..., packing=...).

    ORDER. Rows are in the order of their longest documents in the shards, and
    documents of a row in their own order: no order of lengths. --seed shuffles
    the documents of each shard before they are packed.

    SEVERAL DOMAINS go to OUT/DOMAIN. A run that was killed goes on where it
    was: give the same command again. The result does not depend on --parts.

    Exit status: 0, 1 if shards cannot be read, 2 wrong use.

    Args:
        urls: datasets, or directories above datasets, or NAME=URL.
        seq_len: tokens of a row.
        algorithm: how documents become rows.
        long_documents: documents longer than a row: `cut` into rows, `truncate` to one row, or `drop`.
        selection: pack the samples that this selection keeps, and no others.
        seed: shuffle the documents of each shard; default: as they are stored.
        pad_id: the token behind the last document of a row; default: the end-of-document token of the dataset. Token
            files do not name theirs: give it, unless rows are those of concat.
        eos_id: the token that ends a document, where the dataset does not say where documents lie.
        columns: what rows have, as in tokens,loss_mask; default: all columns. Each has a value for each token.
        as_json: print one JSON document, not tables.
    """
    console = Console(as_json=as_json)
    settings = PackingSettings(seq_len=seq_len, algorithm="concat")  # checks the length before anything is read
    if eos_id is not None:  # token files do not say where documents are: read as rows, they need not
        reading = replace(reading, seq_len=seq_len)
    datasets = reading.find(urls)
    settings = msgspec.structs.replace(settings, seed=seed, eos_id=eos_id)
    chosen = tuple(name.strip() for name in columns.split(",")) if columns is not None else None
    jobs = []
    for each in datasets:
        domain = PackedDomain(
            name=each.name, url=each.url, reading=reading.for_workers(), columns=chosen, eos_id=eos_id,
            selection=_absolute(selection), joins=algorithm == "concat",
        )  # fmt: skip
        own = _settings(
            domain, settings, console=console, algorithm=algorithm, long_documents=long_documents, pad_id=pad_id
        )
        place = output.root if len(datasets) == 1 else output.place(each.name)
        jobs.append(_Job.of(each, domain, own, place=place, output=output, parts=parts))
    if not output.dry_run:
        _run(jobs, output, parts, console)
    documents = [job.result(output, parts) for job in jobs]
    if parts.single is not None:
        console.note(parts.hint())
    console.result({"status": output.status, "domains": documents}, _table(documents))
    return 0


def _settings(
    domain: PackedDomain,
    settings: PackingSettings,
    *,
    console: Console,
    algorithm: Any,
    long_documents: Any,
    pad_id: int | None,
) -> PackingSettings:
    """Return how a domain is packed: what the options leave open, its dataset says."""
    rows, source = domain.open()
    if left := rows.domain.dropped:
        console.note(f"{domain.name}: {left:,} tokens at the ends of its files are in no shard, and are not packed")
    if algorithm == "concat" and pad_id is not None:
        raise ConfigError(f"--pad-id {pad_id} with concat, whose rows are full: leave it out")
    eos = (rows.domain.tokenizer or {}).get("eos")
    if pad_id is None and algorithm != "concat":
        pad_id = source.eos_id if source.eos_id is not None else eos if isinstance(eos, int) else None
    if pad_id is None and algorithm != "concat":
        raise ConfigError(
            f"{domain.name}: rows of {algorithm} have padding, and the dataset names no end-of-document token: give "
            "--pad-id, that of its tokenizer"
        )
    kept = None if domain.selection is None else Selection.open(domain.selection, domain=domain.name).id
    made = PackingSettings(
        seq_len=settings.seq_len, algorithm=algorithm, long_documents=long_documents, seed=settings.seed,
        pad_id=pad_id, documents=source.kind, eos_id=source.eos_id, columns=source.columns, selection=kept,
    )  # fmt: skip
    check_pad(made, rows.domain.shards)
    return made


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One domain: what is to be done, and where it goes."""

    domain: PackedDomain
    table: ShardTable
    settings: PackingSettings
    place: Path
    parts: int
    todo: Sequence[PackTask]
    done: bool
    made: dict[str, Any]

    @classmethod
    def of(
        cls,
        dataset: NamedDataset,
        domain: PackedDomain,
        settings: PackingSettings,
        *,
        place: Path,
        output: Output,
        parts: PartOptions,
    ) -> _Job:
        shards = ShardTable.of(dataset.index.shards)
        inputs = {"command": "pack", "domain": domain.name, "shards": shards.digest}
        made = provenance({**inputs, "settings": msgspec.to_builtins(settings)}, dataset=place_of(dataset.url))
        count = parts.count(shards.rows, per_part=_PER_PART, least=_LEAST)
        if parts.parts is None and parts.single is None:
            count = min(count, max(len(shards.shards), 1))
        done = output.is_done(place, "packing", made)
        task = PackTask(
            domain=domain, settings=settings, out=place.absolute(), part=(0, count), made=made,
            overwrite=output.overwrite,
        )  # fmt: skip
        again = output.overwrite and parts.single is None
        todo = [] if done else [part for part in parts.todo(count) if again or not part_is_done(place, part, made=made)]
        return cls(
            domain=domain, table=shards, settings=settings, place=place, parts=count, done=done, made=made,
            todo=[replace(task, part=part) for part in todo],
        )  # fmt: skip

    def rows(self, tasks: Sequence[tuple[int, int]]) -> int:
        """Return the samples of some parts."""
        start_S = self.table.start_S
        return sum(int(start_S[end] - start_S[first]) for first, end in (self.table.part(*part) for part in tasks))

    def result(self, output: Output, parts: PartOptions) -> dict[str, Any]:
        """Merge the parts, if all of them were to be done, and return what the result says of the domain."""
        found: dict[str, Any] = {"domain": self.domain.name, "samples": self.table.rows}
        found |= {"settings": msgspec.to_builtins(self.settings)}
        if output.dry_run or parts.single is not None:
            return found | {"path": str(self.place), "id": None}
        if self.done:
            packing = Packing.open(self.place)
        else:
            packing = merge_packing(
                self.place, table=self.table, parts=self.parts, made=self.made, overwrite=output.overwrite
            )
        totals = packing.totals
        return found | {
            "path": packing.path,
            "id": packing.id,
            **msgspec.to_builtins(totals),
            "padding": packing.padding,
            "waste": round(packing.waste, 6),
        }


def _run(jobs: Sequence[_Job], output: Output, parts: PartOptions, console: Console) -> None:
    """Do all parts that are not done yet."""
    if output.overwrite and parts.single is None:
        for job in jobs:
            discard(job.place)
    tasks = [task for job in jobs for task in job.todo]
    total = sum(job.rows(parts.todo(job.parts)) for job in jobs)
    left = sum(job.rows([task.part for task in job.todo]) for job in jobs)
    options = parts.placed(tasks=len(tasks), rows=left, few=_FEW)
    for _ in run_parts(
        pack_part, tasks, options=options, console=console, label="pack", total=total, done=total - left, unit="samples"
    ):
        pass


def _absolute(url: str | None) -> str | None:
    """Return a local path as an absolute one: a worker on another machine has another current directory."""
    return str(local_path(url).absolute()) if url is not None and is_local(url) else url


def _table(documents: Sequence[dict[str, Any]]) -> Any:
    columns = ["domain", "documents", "rows", "tokens", "waste", "cut", "dropped", "shared", "packing"]
    shown = []
    for each in documents:
        if "rows" not in each:
            shown.append([each["domain"], *["-"] * 7, each["path"]])
            continue
        numbers = [f"{each[name]:,}" for name in ("documents", "rows", "tokens")]
        documents_cut = f"{each['cut']:,} ({each['cut'] / max(each['documents'], 1):.1%})"
        lost = f"{each['dropped']:,}"
        shown.append(
            [each["domain"], *numbers, f"{each['waste']:.2%}", documents_cut, lost, f"{each['shared']:,}", each["path"]]
        )
    return table(columns, shown)
