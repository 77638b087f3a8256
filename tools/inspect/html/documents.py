"""The sections on documents: how long they are, which repeat, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...shared.cards import Card
from .charts import Bar, bars, histogram
from .elements import Html, tag
from .numbers import percent
from .shown import IN_PLOTS, Page, Shown, copies_of, label_of, median_of, more_than, section

_MOST_REASONS = 12


def length_section(largest: Sequence[Shown], colors: Mapping[str, int]) -> Html | None:
    """Return histograms of the lengths of documents; None if no card has them."""
    known = [each for each in largest if each.card is not None and each.card.lengths is not None]
    plots: list[Html] = []
    for each in known[:IN_PLOTS]:
        assert each.card is not None
        assert each.card.lengths is not None
        lengths = each.card.lengths
        between = f"{lengths.least:,} to {lengths.most:,} tokens, median {median_of(each)}"
        between = f"{lengths.most:,} tokens" if lengths.least == lengths.most else between
        text = f"{each.card.documents:,} document{'s' if each.card.documents != 1 else ''} of {between}"
        row = each.about.get("seq_len")
        plot = histogram(
            lengths,
            row=row if isinstance(row, int) else None,
            color=colors[each.domain],
            label=f"Lengths of documents of {label_of(each)}: {text}",
        )
        plots.append(tag("div", tag("h3", label_of(each)), plot, tag("p", text, class_="note")))
    if not plots:
        return None
    note = (
        "Tokens of each document, on a logarithmic scale. Bars: share of the documents. Line: share of the tokens, "
        "which shows where most of the text is. Medians are known as far as the histogram's bins are wide."
    )
    return section("Length of documents", tag("div", plots, class_="plots"), more_than(IN_PLOTS, len(known)), note=note)


def loss_section(page: Page, largest: Sequence[Shown], colors: Mapping[str, int]) -> Html | None:
    """Return what repeats and what was left out; None if nothing of it is known."""
    dropped = [(each, found) for each in largest if (found := each.count("dropped_tokens")) is not None]
    copies = [
        (each, each.card, each.card.duplicates) for each in largest if each.card is not None and each.card.duplicates
    ]
    boxes: list[Html] = []
    if copies:
        lines = [
            Bar(
                label=label_of(each),
                parts=(found.copies / max(card.documents, 1),),
                value=copies_of(each),
                color=colors[each.domain],
            )
            for each, card, found in copies[:IN_PLOTS]
        ]
        inexact = "" if all(found.exact for _, _, found in copies) else " ≈ is estimated from a sample of hashes."
        text = f"Documents whose whole text occurred before in the same domain.{inexact}"
        boxes.append(
            tag("div", tag("h3", "Copies"), tag("p", text, class_="note"), bars(lines, title="Copies", most=1))
        )
    if dropped:
        lines = [
            Bar(
                label=label_of(each),
                parts=(count / max(count + (each.described["tokens"] or 0), 1),),
                value=f"{count:,} ({percent(count / max(count + (each.described['tokens'] or 0), 1))})",
                color=colors[each.domain],
            )
            for each, count in dropped[:IN_PLOTS]
        ]
        text = "Tokens at the end of a domain that fill no whole row."
        boxes.append(
            tag("div", tag("h3", "Dropped"), tag("p", text, class_="note"), bars(lines, title="Dropped tokens", most=1))
        )
    if page.card is not None:
        boxes.append(_rejects(page.card))
    return section("Repeated and left out", tag("div", boxes, class_="two")) if boxes else None


def _rejects(card: Card) -> Html:
    count = card.rejects.get("documents", 0)
    lines = [tag("p", f"{count:,} documents could not be read." if count else "All documents could be read.")]
    lines += _counts(card.rejects.get("reasons"), "Reasons")
    if left_out := _counts(card.rejects.get("left_out"), "Left out"):
        lines += [tag("p", "By a filter, or without text:", class_="note"), *left_out]
    examples = card.rejects.get("examples")
    for example in examples if isinstance(examples, list | tuple) else ():
        text = ", ".join(f"{k}: {v}" for k, v in example.items()) if isinstance(example, Mapping) else str(example)
        lines.append(tag("p", text, class_="note"))
    return tag("div", tag("h3", "Rejects"), lines)


def _counts(found: object, title: str) -> list[Html]:
    """Bars of counts by name; none if there is nothing of the kind."""
    each = (
        {str(name): n for name, n in found.items() if isinstance(n, int) and n > 0} if isinstance(found, dict) else {}
    )
    most = sorted(each.items(), key=lambda pair: -pair[1])[:_MOST_REASONS]
    return (
        [bars([Bar(label=name, parts=(n,), value=f"{n:,}", color=6) for name, n in most], title=title)] if most else []
    )
