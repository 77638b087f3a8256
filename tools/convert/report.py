"""What `mixstream convert` prints: of tokens before it begins, and of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..shared.console import Console, show_bytes, show_seconds, table
from .tokens.tokenizer import TokenizerSpec

_SHOWN = 6


def note_tokens(console: Console, described: TokenizerSpec, tokenizer: str) -> None:
    """Say what the user may not expect of the tokens around and in documents."""
    for note in described.notes:
        console.note(note)
    if described.puts_first is not None and described.bos is None:
        console.note(
            f"documents begin without {described.puts_first}, which {tokenizer} puts before a text; "
            f"--bos '{described.puts_first}' puts it before each document"
        )
    if described.eos is None and described.bos is None:
        # Of `--eos none`: a stream that a user may want, and that none should get by accident.
        console.note("nothing stands between documents: no row shows where one ends and the next begins")
    if described.unmarked:
        shown = ", ".join(described.unmarked[:_SHOWN]) + (" and more" if len(described.unmarked) > _SHOWN else "")
        console.note(
            f"{tokenizer} does not mark {shown} as special: where a text spells one out, it becomes that token, "
            "whatever --special-tokens says"
        )


def report(console: Console, summary: dict[str, Any], out: str, seconds: float) -> None:
    """Print the summary of a conversion."""
    skipped = summary["skipped"]
    if skipped["documents"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in skipped.get("reasons", {}).items())
        files = ", ".join(f"{out.rstrip('/')}/{name}" for name in skipped.get("files", [])[:_SHOWN])
        about = f" ({reasons}), listed in {files}" if reasons else ""
        console.note(f"skipped {skipped['documents']:,} documents that cannot be read{about}; the first of them:")
        for example in skipped["examples"]:
            console.note(f"  {example}")
    for label, count in summary.get("left_out", {}).items():
        console.note(f"left out: {count:,} {'documents by ' if label.startswith('--') else ''}{label}")
    for warning in summary["warnings"]:
        console.note(f"warning: {warning}")
    for fault in summary["faults"]:
        console.note(f"fault: {fault}")
    if summary["status"] == "nothing to do":
        closing = f"nothing to do: {out} has all of it already"
    else:
        work = [(kind, size) for kind in ("converted", "uploaded") if (size := summary[f"{kind}_bytes"])]
        rate = f" ({show_bytes(work[0][1] / max(seconds, 1e-9))}/s)" if work else ""
        amounts = ", ".join(f"{kind} {show_bytes(size)}" for kind, size in work) or "converted"
        closing = f"{out}: {amounts} in {show_seconds(seconds)}{rate}"
    document = {**summary, "out": out, "seconds": round(seconds, 3)}
    console.result(document, _table(summary["domains"]), closing)


def report_share(console: Console, told: dict[str, Any], out: str, seconds: float) -> int:
    """Print what the task of a job array did."""
    if told["skipped"]:
        console.note(f"skipped {told['skipped']:,} documents that cannot be read; the first of them:")
        for example in told["examples"]:
            console.note(f"  {example}")
    amount = f"{told['share']:,} parts, {told['documents']:,} documents, {told['rows']:,} rows"
    what = f"{amount} in {show_seconds(seconds)}" if told["status"] != "nothing to do" else f"nothing to do: {amount}"
    of = told["part"].partition("/")[2]
    closing = (
        f"{out}: --part {told['part']} is done ({what}). When all {of} are, give --parts {of} instead of --part: that "
        "run publishes them"
    )
    console.result({**told, "out": out, "seconds": round(seconds, 3)}, closing)
    return 0


def _table(domains: dict[str, dict[str, dict[str, int]]]) -> Any:
    counts = ("documents", "rows", "tokens", "shards", "dropped_tokens")
    rows: list[Sequence[object]] = [
        (domain, split, *(entry[count] for count in counts))
        for domain, splits in domains.items()
        for split, entry in splits.items()
    ]
    if len(rows) > 1:
        rows.append(("total", "", *(sum(row[at + 2] for row in rows) for at in range(len(counts)))))  # pyright: ignore
    return table(("domain", "split", "documents", "rows", "tokens", "shards", "dropped tokens"), rows)
