"""`mixstream demo selection`: its options, its help, and its output. The work is in run.py, which connects the rest:

planted.py   passages of real text, and faults among them     streamed.py  one epoch over what is kept
judged.py    what became of every row                         picture.py   the same as a picture
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from ...shared.console import Console, show_bytes, show_seconds, table
from ...shared.numbers import Positive, Seed, Share, real
from ...shared.outputs import Directory
from .judged import DUPLICATE, FATES, KEPT, OUTLIER, TYPICAL
from .planted import CHARACTERS, SHUFFLED, STRAY, TEXT

_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
_FATE = {DUPLICATE: "near-duplicate", OUTLIER: "outlier", TYPICAL: "most typical", KEPT: "kept"}


def selection(
    *,
    out: Directory = Path("runs/demo-selection"),
    rows: Positive = 900,
    eps: Annotated[float, real(above=0, below=2)] = 0.005,
    fraction: Share = 0.8,
    outlier_cut: Share = 0.98,
    seed: Seed = 0,
    as_json: _Json = False,
) -> int:
    """Prune text with planted faults, see what was dropped, stream the rest.

    mixstream demo selection
    mixstream demo selection --eps 0.02 --fraction 0.5

    The demo runs offline, on the CPU, in about a minute. It cuts text that comes
    with Python and torch into passages of 1 KB, each of them a row of a domain,
    and plants faults among them: near-copies, in which a few words are replaced;
    random characters; shuffled words; a few strays from another domain.

    Then it runs the commands of `mixstream embed` and `mixstream prune`, which it
    prints, and holds what they dropped against what was planted: also where they
    miss it. At the end one epoch is read over what is kept, from a directory
    which lacks every shard of which nothing is kept.

    Exit status 1 if any row but the kept ones arrives, or a kept one does not.

    Args:
        out: directory for text, shards, embeddings, selections and the picture.
        rows: passages of each kind of real text, if there are so many.
        eps: two rows are near-duplicates if their cosine is above 1 - eps.
        fraction: share to keep of the rows that are no duplicates.
        outlier_cut: share of these, by distance, that may be kept at all.
        seed: of the choice of passages, the faults, k-means and the order.
        as_json: print one JSON document, not a table.
    """
    console = Console(as_json=as_json)
    console.note("mixstream demo selection: real text with planted faults, pruned and streamed, no network.\n")
    from .run import run_demo  # here, so that the note above is shown while torch is loaded

    document = run_demo(
        out=out, rows=rows, eps=eps, fraction=fraction, outlier_cut=outlier_cut, seed=seed, console=console
    )
    console.result(document, _table(document["domains"]), _closing(document))
    return 0 if document["exact"] else 1


def _table(domains: dict[str, dict[str, dict[str, int]]]) -> Table:
    rows: list[Sequence[object]] = [
        (
            name,
            kind if kind == TEXT else f"planted: {kind}",
            count["rows"],
            *(count[fate] for fate in FATES),
            f"{count[KEPT] / count['rows']:.0%}",
            f"{count['easy_keeps'] / count['rows']:.0%}",
        )
        for name, kinds in domains.items()
        for kind, count in kinds.items()
    ]
    heads = (
        "domain",
        "what",
        "rows",
        "near-duplicate",
        "outlier",
        "most typical",
        "kept",
        "kept %",
        "with --side easy",
    )
    return table(heads, rows)


def _closing(document: dict[str, Any]) -> str:
    lines = ["", *_found(document), "", *_texts(document["samples"]), *_streamed(document), ""]
    if document["picture"]:
        lines.append(f"picture  {document['picture']}")
    lines.append(f"next     mixstream select stats {document['out']}/kept")
    return "\n".join([*lines, "", show_seconds(document["seconds"])])


def _found(document: dict[str, Any]) -> list[str]:
    """Lines that say how much of what was planted is gone, and what else."""
    copies, alone = document["duplicates"], document["rows_alone_with_their_prototype"]
    went, left = f"{copies['went']:,}", copies["groups_without_any_row_left"] or "none"
    recall, precision = (_share(copies[name]) for name in ("recall", "precision"))
    lines = [
        f"copies      {went} of the {copies['could_go']:,} rows that another one nearly repeats are gone ({recall}),",
        f"            and they are {precision} of the {copies['dropped']:,} rows that `dedup` dropped there;",
        f"            {left} of the {copies['groups']:,} passages with copies lost their last row",
    ]
    for kind, domain in {CHARACTERS: "noise", SHUFFLED: "noise", STRAY: "prose"}.items():
        count = document["domains"][domain][kind]
        gone = ", ".join(f"{count[fate]:,} as {_FATE[fate]}" for fate in FATES if fate != KEPT and count[fate])
        dropped = count["rows"] - count[KEPT]
        lines.append(f"{kind:<12}{dropped:,} of {count['rows']:,} are gone{f': {gone}' if gone else ''}")
    recall, precision = (_share(document["dropped"][name]) for name in ("recall", "precision"))
    return [
        *lines,
        f"all         {recall} of the planted rows are gone, and they are {precision} of the rows that are gone;",
        "            the others are near-duplicates that were there before, most of all in licences, and what",
        "            --fraction and --outlier-cut drop of any domain",
        "why         the embedder is a mean over words: it cannot see their order, so shuffled words look like text,",
        "            and random characters like each other: near-duplicates, typical of their domain, no outliers",
        f"            {alone:,} rows are alone with their prototype: at distance 0 they count as the most typical",
    ]


def _texts(samples: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for each in samples:
        kind = "" if each["kind"] == TEXT else f", planted: {each['kind']}"
        like = f", cosine {each['cosine']:.4f} to the one above" if "cosine" in each else ""
        fate = "kept" if each["fate"] == KEPT else f"dropped: {_FATE[each['fate']]}"
        lines += [
            f"{fate}{like} ({each['domain']}, row {each['row']:,}{kind}, distance {each['distance']:.3f})",
            f"    {' '.join(each['text'].split())[:140]}",
        ]
    return [*lines, ""]


def _streamed(document: dict[str, Any]) -> list[str]:
    read = document["stream"]
    verdict = (
        f"EXACT: all {read['kept']:,} kept rows arrived, and no other ({read['repeated']} twice, in the last batch)."
    )
    if not document["exact"]:
        verdict = (
            f"NOT EXACT: {read['missing']:,} kept rows did not arrive, {read['others']:,} other rows did.\n"
            "This is a bug in mixstream: please report it."
        )
    sizes = f"{show_bytes(read['bytes_read'])} of {show_bytes(read['bytes'])}"
    return [verdict, f"It took {read['read']} of {read['shards']} shards, {sizes}: the others have no kept row."]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
