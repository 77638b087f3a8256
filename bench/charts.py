"""Draw the charts and fill the tables of the docs from what `make bench` measured.

    python bench/charts.py [--runs runs/bench] [--images docs/images] [--write-docs]

Reads `peers.json`, `startup.json` and `scale.json`, as far as `make bench` or these scripts wrote them; draws
`peers.svg` and `scale-CURVE.svg`; prints the table of peers. With `--write-docs`, the table replaces what stands in
docs/benchmarks.md between `<!-- peers: … -->` and `<!-- /peers -->`, and the pictures of curves what stands at `scale`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from svg import Bar, bars, lines

ROOT = Path(__file__).resolve().parents[1]
LABELS = {
    "loader": "mixstream Loader",
    "plain": "mixstream in torch's DataLoader",
    "mosaic": "mosaicml-streaming",
    "litdata": "litData",
    "datasets": "Hugging Face datasets",
    "grain": "grain",
    "webdataset": "webdataset",
    "torchdata": "by hand, memmap + torchdata",
    "lancedb": "LanceDB",
}
CURVES = {  # curve of startup.json and scale.json -> title, axis, unit, columns with their labels
    "samples": ("Start against samples", "samples", "ms and MB", {"ms": "ms", "mb": "MB"}),
    "shards": ("Start against shards", "shards", "s", {"first_s": "first start", "later_s": "later starts"}),
    "domains": (
        "A step of 1,024 rows against domains",
        "domains",
        "ms",
        {"loader_ms": "batch", "plan_ms": "plan", "locate_ms": "locate"},
    ),
    "batch": (
        "A step of 1,000 domains against its rows",
        "batch",
        "ms",
        {"loader_ms": "batch", "plan_ms": "plan", "locate_ms": "locate"},
    ),
    "ranks": ("One of N ranks, 8 rows a step", "ranks", "ms", {"start_ms": "start", "step_ms": "step"}),
    "resume": (
        "First batch of a state at step N",
        "step",
        "ms",
        {"natural: Loader": "natural", "schedule: Loader": "schedule", "natural: DataLoader": "DataLoader"},
    ),
}


def ratios(peers: dict[str, Any], dtype: str, key: str) -> dict[str, list[float]]:
    """Return the turns of each contender as ratios to `Loader`'s of the same turn."""
    turns = {name: each["turns"][dtype][key] for name, each in peers.items() if dtype in each.get("turns", {})}
    return {
        name: [ours / base for ours, base in zip(found, turns["loader"]) if base > 0] for name, found in turns.items()
    }


def in_words(setting: dict[str, Any]) -> str:
    """Return a setting as a short text."""
    return ", ".join(f"{key} {value}" for key, value in setting.items()).replace("_", " ") or "none to set"


def spread(found: list[float]) -> str:
    """Return a median with its range, as the table has it."""
    digits = 2 if statistics.median(found) >= 0.1 else 3
    return f"{statistics.median(found):.{digits}f} ({min(found):.{digits}f} to {max(found):.{digits}f})"


def peers_table(document: dict[str, Any]) -> str:
    """Return the table of contenders in Markdown, the fastest first."""
    peers = document["contenders"]
    speed, cpu = ratios(peers, "int64", "rows_per_second"), ratios(peers, "int64", "cpu")
    stored = ratios(peers, "uint16", "rows_per_second")
    first = {name: statistics.median(each["first"]["seconds"]) for name, each in peers.items() if "first" in each}
    columns = [
        "speed",
        "CPU time a token",
        "speed, as stored (uint16)",
        "first batch",
        "reach of the shuffle",
        "setting",
    ]
    rows = ["| int64 tokens, 256 rows a batch | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name in sorted(speed, key=lambda name: -statistics.median(speed[name])):
        each = peers[name]
        reach = min(each["turns"]["int64"]["check"]["reach"], 1)
        cells = [
            label(name, each),
            spread(speed[name]),
            f"{statistics.median(cpu[name]):.1f}" if cpu[name] else "not measured",
            spread(stored[name]) if name in stored else "not measured",
            f"{first[name] / first['loader']:.2f}" if name in first else "not measured",
            f"{reach:.2f}",
            in_words(each["setting"]["int64"]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows += [f"| {LABELS[name]} | {each['missing']} | | | | | |" for name, each in peers.items() if "missing" in each]
    tokens = statistics.median(peers["loader"]["turns"]["int64"]["rows_per_second"]) * document["corpus"]["seq"] / 1e6
    shape, machine = document["corpus"], document["machine"]
    cores, versions = len(document["cores"]), machine["versions"]
    load = f"{machine['load']} and {document['load_after']}"
    waited = f"and its first batch came after {first['loader']:.2f} s" if first else "first batches are not measured"
    size = f"{shape['domains']} domains of {shape['rows']:,} rows of {shape['seq']:,} tokens"
    below = [
        "",
        f"Ratios to `Loader` of the same turn: median, least and most of {len(speed['loader'])} turns. `Loader`",
        f"delivered {tokens:,.0f} million tokens/s, {waited}. {size};",
        f"{cores} cores for each contender. {machine['processor']}, Python {machine['python']}, torch",
        f"{versions['torch']}; load before and after: {load}.",
    ]
    return "\n".join([*rows, *below])


def label(name: str, each: dict[str, Any]) -> str:
    """Return a contender with the version of its package."""
    versions = each["turns"]["int64"]["versions"]
    own = next((version for package, version in versions.items() if package not in ("torch", "numpy")), "")
    return LABELS[name] if name in ("loader", "plain") else f"{LABELS[name]} {own}"


def peers_chart(document: dict[str, Any]) -> str:
    """Return the chart of speeds, the fastest first."""
    peers, found = document["contenders"], ratios(document["contenders"], "int64", "rows_per_second")
    shown = []
    for name in sorted(found, key=lambda name: -statistics.median(found[name])):
        middle = statistics.median(found[name])
        text = "1" if name == "loader" else f"{middle:.2f}" if middle >= 0.1 else f"{middle:.3f}"
        where = label(name, peers[name])
        shown.append(Bar(where, middle, min(found[name]), max(found[name]), text, ours=name in ("loader", "plain")))
    shape = document["corpus"]
    what = (
        f"{shape['domains']} domains, shuffled and mixed by weights, rows of {shape['seq']:,} tokens widened to int64"
    )
    how = "Each in its recommended format, with its best setting of those tried; all take turns in one run"
    notes = [
        f"{what}, {shape['batch']} a batch; warm; {len(document['cores'])} cores each.",
        f"{how}. Whiskers: least and most.",
    ]
    return bars("Tokens per second, as a ratio to mixstream's Loader", shown, notes)


def scale_charts(curves: dict[str, list[dict[str, float]]]) -> dict[str, str]:
    """Return the chart of each curve that is there."""
    drawn = {}
    for name, (title, x, unit, columns) in CURVES.items():
        points = curves.get(name, [])
        series = {
            label: [(row[x], row[column]) for row in points if column in row] for column, label in columns.items()
        }
        if any(len(each) > 1 for each in series.values()):
            drawn[f"scale-{name}"] = lines(title, x, unit, series)
    return drawn


def fill(page: str, name: str, table: str) -> str:
    """Return a page of the docs with the text between the two marks of `name` replaced.

    >>> fill("a\\n<!-- x: by y -->\\nold\\n<!-- /x -->\\nb", "x", "new")
    'a\\n<!-- x: by y -->\\nnew\\n<!-- /x -->\\nb'
    """
    pattern = re.compile(rf"(<!-- {name}:[^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    filled, count = pattern.subn(lambda found: found[1] + table + "\n" + found[2], page)
    if count != 1:
        raise SystemExit(f"the page has {count} places for the table {name!r}, not one")
    return filled


def main() -> None:
    """Draw what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    drawn: dict[str, str] = {}
    texts: dict[str, str] = {}
    if (measured := options.runs / "peers.json").exists():
        document = json.loads(measured.read_text())
        document = document.get("measured", document)  # as the suite wraps it, or as the script wrote it
        drawn["peers"], table = peers_chart(document), peers_table(document)
        texts["peers"] = f"![Tokens per second of mixstream and its peers](images/peers.svg)\n\n{table}"
        print(table)
    found = {}
    for name in ("startup", "scale"):
        if (measured := options.runs / f"{name}.json").exists():
            document = json.loads(measured.read_text())
            found |= document.get("measured", document)
    if curves := scale_charts(found):
        drawn |= curves
        texts["scale"] = " ".join(f"![{CURVES[name[6:]][0]}](images/{name}.svg)" for name in curves)
    options.images.mkdir(parents=True, exist_ok=True)
    for name, picture in drawn.items():
        (options.images / f"{name}.svg").write_text(picture)
        print(f"drew {options.images / name}.svg")
    if options.write_docs:
        page = ROOT / "docs" / "benchmarks.md"
        for name, text in texts.items():
            page.write_text(fill(page.read_text(), name, text))


if __name__ == "__main__":
    main()
