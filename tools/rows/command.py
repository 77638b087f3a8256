"""`mixstream rows`: its options, its help, and the flow of the command. It only writes its result."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.loader import PastRun, StepRows, recompute

from ..shared.console import Console
from ..shared.numbers import MaybeCount, MaybePositive, Overlap, Positive
from ..shared.options import token_options
from ..shared.safe_text import printable
from ..shared.texts import Texts
from .samples import Samples
from .show import show_sample, show_step
from .source import Record, open_record, open_shards

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
_RANK = re.compile(r"(\d+)/(\d+)")
_PROGRESS = 512  # steps


def rows(
    urls: Annotated[tuple[str, ...], Parameter(name="URL", show_default=False)] = (),
    /,
    *,
    step: MaybeCount = None,
    row: MaybeCount = None,
    log: str | None = None,
    state: str | None = None,
    rank: str | None = None,
    domain: str | None = None,
    split: str = "train",
    selection: str | None = None,
    packing: str | None = None,
    seq_len: MaybePositive = None,
    overlap: Overlap = 0,
    dtype: str | None = None,
    token_column: str | None = None,
    eos_id: MaybeCount = None,
    text: _Flag = False,
    chars: Positive = 200,
    tokenizer: str | None = None,
    allow_unsafe_types: _Flag = False,
    as_json: _Json = False,
) -> int:
    """Show which rows were in a step of a run, and what they say.

    mixstream rows shards/ --step 18204 --log runs/x/ --text
    mixstream rows shards/ --step 18204 --log runs/x/ --rank 3/8 --text
    mixstream rows shards/ --step 900 --state checkpoint.pt --json
    mixstream rows web=s3://corpus/web/train code=shards/code/train \\
        --step 7 --log runs/x/mixture.jsonl
    mixstream rows shards/ --row 4711 --domain web --log runs/x/ --text
    mixstream rows web.idx --seq-len 2048 --step 900 --state checkpoint.pt

    URL is the directory above the domains that the run reads, as `mixstream
    convert` writes it, or NAME=URL for a domain of another name or place. The
    rows of a step are not stored: they are computed again from what decided
    them, and are those that the run had, to the row.

    THE RUN. --log is its mixing log, which has the weights of every step: any
    logged step can be shown, for any mixer. --state is a state saved as JSON,
    or a torch checkpoint with a state in it. With fixed weights, a state
    decides every step, also those to come. Of a mixer that learns it has the
    weights of a few steps from its own on; others need the log. What is not
    known is refused, never guessed. Give both for a log that begins in
    mid-run, for settings that changed in mid-run, and for samples that were
    set aside (on_bad_sample="quarantine"), which only a state lists.

    A SAMPLE. --row without --step is the number of a sample in the dataset of
    --domain. It shows what that is, and with a run, in which steps it was. All
    steps that are known are looked through; with fixed weights and a state, up
    to the end of the state's epoch.

    TEXT. --text shows the beginning of each row as text, by the copy of the
    tokenizer that convert put beside the datasets, or by --tokenizer. Shards in
    a store are fetched whole, to a temporary directory; --row and --rank show
    fewer rows.

    Each row has its place in the global batch, its domain, which pass over the
    domain it is (epoch), the draw, the number of the sample in the dataset, its
    shard and row there, and the ids of its documents, if the dataset keeps them.
    Packed rows and rows of token files are numbered as the run cuts them, so give
    its --packing or --seq-len; documents are not shown of them. Steps of
    order="mosaic" and order="megatron" are not computed.

    Exit status: 0, 1 if it cannot be computed or a row cannot be read, 2 wrong
    use.

    Args:
        urls: directories of domains, or NAME=URL.
        step: the step, from 0, as `batch.step` says it.
        row: with --step, one row of the global batch, from 0; without, a sample of --domain.
        log: a mixing log, or the directory with its mixture.jsonl.
        state: a saved state, or a checkpoint.
        rank: R/W, the rows of rank R of W.
        domain: the domain of --row, if there are several.
        split: the split of the datasets.
        selection: the selections, or buckets, by which the run reads its domains.
        packing: what `mixstream pack` wrote for domains that the run packs, or concat.
        seq_len: tokens of a row of token files, as in Stream(seq_len=...).
        overlap: 1 if each row of token files begins with the last token of the one before.
        dtype: of the tokens of files that do not say it, such as uint16.
        token_column: of Parquet and Arrow files, the column of token ids; default: input_ids, else tokens.
        eos_id: the token by which documents were found of token files that are packed (`mixstream pack --eos-id`).
        text: show the rows as text.
        chars: characters of text for each row.
        tokenizer: what `convert --tokenizer` takes, such as OUT/tokenizer.
        allow_unsafe_types: unpickle pickled columns for --text; only for data whose origin you trust.
        as_json: print one JSON document, not tables.
    """
    _check(urls, step=step, row=row, log=log, state=state, rank=rank, domain=domain, chars=chars)
    console, record = Console(as_json=as_json), open_record(log, state)
    texts = Texts(tokenizer) if text or tokenizer is not None else None
    with tempfile.TemporaryDirectory(prefix="mixstream-rows-") as scratch:
        domains, datasets = open_shards(
            urls,
            record=record,
            split=split,
            selection=selection,
            packing=packing,
            options=token_options(seq_len, overlap, dtype, token_column),
            eos_id=eos_id,
            cache=Path(scratch),
            allow_unsafe_types=allow_unsafe_types or texts is None,
        )
        run = None
        if record is not None:
            run = recompute(domains, logged=record.logged, state=record.state, where=record.where, step=step)
        samples = Samples(domains, datasets, texts=texts, chars=chars)
        try:
            if step is not None:
                assert run is not None, "a step needs a run"
                assert record is not None
                document = _step(run, record, samples, step, row=row, rank=rank)
                parts = show_step(document)
            else:
                assert row is not None, "there is a step or a row"
                document = _sample(run, samples, row, _name(domain, datasets), console)
                parts = show_sample(document)
        finally:
            domains.opened.close()
    notes = [*_notes(run), *samples.notes]
    for note in dict.fromkeys(notes):
        console.note(f"note: {printable(note)}")
    listed = document["rows"] if step is not None else [document["sample"]]
    unread = any(each.get("trouble") for each in listed)
    console.result({"status": "faults" if unread else "ok", **document, "notes": notes}, *parts)
    return 1 if unread else 0


def _check(urls: Sequence[str], **given: Any) -> None:
    """Refuse options that contradict each other."""
    step, row = given["step"], given["row"]
    if not urls:
        raise ConfigError("no URL is given: name the directory above the domains that the run reads, or NAME=URL")
    if step is None and row is None:
        raise ConfigError("nothing to show: give --step, with --log or --state; or --row, a sample of --domain")
    for name in ("step", "row"):
        if given[name] is not None and given[name] < 0:
            raise ConfigError(f"--{name} {given[name]}: give 0 or more")
    if given["chars"] < 1:
        raise ConfigError(f"--chars {given['chars']}: give 1 or more")
    if step is not None and given["log"] is None and given["state"] is None:
        raise ConfigError("--step needs the run: give its --log, or a --state of it")
    if step is None and given["rank"] is not None:
        raise ConfigError("--rank goes with --step: it shows that rank's rows of the step")
    if step is not None and given["domain"] is not None:
        raise ConfigError("--domain goes with --row alone: a step has rows of all domains")
    if row is not None and given["rank"] is not None:
        raise ConfigError("--row and --rank both choose rows of the step: use one of them")


def _notes(run: PastRun | None) -> list[str]:
    if run is None or run.quarantine is not None:
        return []
    note = 'a log does not list samples that were set aside (on_bad_sample="quarantine"): if the run did so, give'
    return [f"{note} a --state from after that too"]


def _step(
    run: PastRun, record: Record, samples: Samples, step: int, *, row: int | None, rank: str | None
) -> dict[str, Any]:
    """Return the document of a step."""
    found = run.rows(step)
    size = len(found.at)
    wanted = _wanted(size, row, rank)
    by_shard = sorted(wanted, key=lambda at: (int(found.at.shard_B[at]), int(found.at.row_B[at])))
    described = {at: _row(run, found, at) | samples.describe(*_address(found, at)) for at in by_shard}
    return {
        "where": run.where,
        "step": step,
        "skipped": found.skipped,
        "global_batch_size": size,
        "repeats": found.rows.repeats,
        "mixer": record.logged.header.mixer if record.logged is not None else None,
        "rows": [described[at] for at in wanted],
    }


def _wanted(size: int, row: int | None, rank: str | None) -> range:
    """Return the rows of a global batch of `size` that are shown."""
    if row is not None:
        if row >= size:
            raise ConfigError(f"--row {row}: the global batch has {size} rows, numbered from 0")
        return range(row, row + 1)
    if rank is None:
        return range(size)
    found = _RANK.fullmatch(rank)
    number, ranks = (int(found[1]), int(found[2])) if found else (0, 0)
    if not number < ranks or size % ranks:
        raise ConfigError(
            f"--rank {rank}: write R/W, rank R from 0 of W ranks, as in 3/8, where W divides the {size} rows of the "
            "global batch"
        )
    return range(number * size // ranks, (number + 1) * size // ranks)


def _address(found: StepRows, at: int) -> tuple[int, int]:
    return int(found.at.shard_B[at]), int(found.at.row_B[at])


def _row(run: PastRun, found: StepRows, at: int) -> dict[str, Any]:
    """Return what the plan says of a row."""
    size, plan = len(found.at), run.run_plan.plan
    return {
        "row": at,
        "domain": run.run_plan.names[int(found.rows.domain_B[at])],
        "epoch": int(found.pass_B[at]),
        "lane": at // (size // plan.lanes),
        "draw": int(found.rows.draw_B[at]),
        "stand_in": bool(found.stand_in_B[at]),
    }


def _name(domain: str | None, datasets: Any) -> str:
    names = sorted(datasets)
    if domain is None and len(names) > 1:
        raise ConfigError(f"--row is a sample of one domain: give --domain, one of {names}")
    if domain is not None and domain not in names:
        raise ConfigError(f"--domain {domain}: there are {names}")
    return names[0] if domain is None else domain


def _sample(run: PastRun | None, samples: Samples, number: int, name: str, console: Console) -> dict[str, Any]:
    """Return the document of a sample, and of the steps that it is in."""
    try:
        shard, row = samples.find(name, number)
    except IndexError as error:
        raise ConfigError(f"--row {number}: {error}") from error
    document = {"sample": {"domain": name, **samples.describe(shard, row)}, "steps": None, "looked": None}
    if run is None:
        return {**document, "where": None}
    first, end = run.first, run.end
    steps: list[dict[str, Any]] = []
    with console.progress("looking through the steps", total=end - first, unit="steps") as advance:
        for done, found in enumerate(run.between(first, end), 1):
            here_B = np.flatnonzero((found.at.shard_B == shard) & (found.at.row_B == row)).tolist()
            steps += [{"step": found.rows.step, **_row(run, found, at), "skipped": found.skipped} for at in here_B]
            if done % _PROGRESS == 0:
                advance(_PROGRESS)
    return {**document, "where": run.where, "steps": steps, "looked": [first, end]}
