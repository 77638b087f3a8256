"""Bars and lines as SVG, without a plotting library; colours follow the reader's light or dark page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """<style>
 text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
 .title { font-size: 15px; font-weight: 600 } .small { font-size: 11px; fill: #59636e }
 .ours { fill: #0969da } .peer { fill: #9aa4ae } .spread, .grid { stroke: #59636e; stroke-width: 1; fill: none }
 .grid { stroke: #d1d9e0 }
 .s0 { stroke: #0969da; fill: #0969da } .s1 { stroke: #bc4c00; fill: #bc4c00 } .s2 { stroke: #1a7f37; fill: #1a7f37 }
 .s3 { stroke: #8250df; fill: #8250df } .line { stroke-width: 2; fill: none }
 text.s0, text.s1, text.s2, text.s3 { stroke: none }
 @media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .peer { fill: #656c76 } .ours { fill: #4493f8 }
  .spread { stroke: #9198a1 } .grid { stroke: #3d444d }
  .s0 { stroke: #4493f8; fill: #4493f8 } .s1 { stroke: #f0883e; fill: #f0883e } .s2 { stroke: #3fb950; fill: #3fb950 }
  .s3 { stroke: #ab7df8; fill: #ab7df8 } .line { fill: none }
 }
</style>"""


@dataclass(frozen=True)
class Bar:
    """A value with its spread, and whether it is ours."""

    label: str
    value: float
    least: float
    most: float
    text: str
    ours: bool = False


def _document(width: int, height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'height="{height:g}" role="img" aria-label="{escape(title, quote=True)}">'
    )
    return "\n".join([head, STYLE, *parts, "</svg>\n"])


def bars(title: str, bars: Sequence[Bar], notes: Sequence[str] = (), *, width: int = 860) -> str:
    """Return horizontal bars, one below the other, each with a whisker from its least to its most.

    >>> print(bars("Speed", [Bar("a", 1.0, 0.9, 1.1, "1.00")]).count("<rect"))
    1
    """
    left, right, high = 265, 80, 26
    scale = (width - left - right) / max(bar.most for bar in bars)
    parts = [f'<text class="title" x="10" y="22">{escape(title)}</text>']
    for i, bar in enumerate(bars):
        y = 38 + i * high
        end, low, top = left + bar.value * scale, left + bar.least * scale, left + bar.most * scale
        kind = "ours" if bar.ours else "peer"
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{kind}" x="{left}" y="{y + 2}" width="{max(end - left, 1):.1f}" height="16" rx="2"/>',
            f'<path class="spread" d="M{low:.1f} {y + 10}H{top:.1f}M{low:.1f} {y + 6}v8M{top:.1f} {y + 6}v8"/>',
            f'<text x="{max(end, top) + 7:.1f}" y="{y + 14}">{escape(bar.text)}</text>',
        ]
    below = 38 + len(bars) * high
    parts += [
        f'<text class="small" x="10" y="{below + 16 + 15 * i}">{escape(note)}</text>' for i, note in enumerate(notes)
    ]
    return _document(width, below + 12 + 15 * len(notes), title, parts)


def lines(
    title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 420
) -> str:
    """Return lines over two logarithmic axes, each with its label at its end.

    >>> print(lines("Cost", "n", "ms", {"a": [(1, 1.0), (10, 2.0)]}).count("<circle"))
    2
    """
    height, left, right, top, bottom = 260, 52, 96, 36, 40
    points = [point for each in series.values() for point in each if point[0] > 0 and point[1] > 0]
    x0, x1 = (math.log10(edge(x for x, _ in points)) for edge in (min, max))
    y0 = math.floor(math.log10(min(y for _, y in points)))
    y1 = max(math.ceil(math.log10(max(y for _, y in points))), y0 + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x0) / max(x1 - x0, 1e-9)
        up = (math.log10(y) - y0) / (y1 - y0)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = [f'<text class="title" x="10" y="20">{escape(title)}, {escape(y_label)}</text>']
    for power in range(y0, y1 + 1):
        _, y = at(10**x0, 10.0**power)
        parts += [
            f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>',
            f'<text class="small" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>',
        ]
    for x in sorted({x for x, _ in points}):
        parts.append(
            f'<text class="small" x="{at(x, 10.0**y0)[0]:.1f}" y="{height - bottom + 16}" text-anchor="middle">'
            f"{_short(x)}</text>"
        )
    middle = (left + width - right) / 2
    parts += [
        f'<text class="small" x="{middle:g}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>',
    ]
    taken: list[float] = []
    for i, (name, each) in enumerate(series.items()):
        found = [at(x, y) for x, y in each if x > 0 and y > 0]
        if not found:
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in found)
        parts.append(f'<path class="s{i % 4} line" d="{path}"/>')
        parts += [f'<circle class="s{i % 4}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in found]
        x, y = found[-1]
        while any(abs(y - other) < 13 for other in taken):
            y -= 13
        taken.append(y)
        parts.append(f'<text class="s{i % 4} small" x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(name)}</text>')
    return _document(width, height, title, parts)


def _short(number: float) -> str:
    """Return 1000 as 1k, 10⁶ as 1M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size and number % size == 0:
            return f"{number / size:g}{sign}"
    return f"{number:g}"
