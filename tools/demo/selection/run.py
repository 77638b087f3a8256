"""The demo's five steps, one after the other. The work is done by the commands that a user would type."""

from __future__ import annotations

import io
import json
import time
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, MixstreamError
from mixstream.selection import DomainRows, Scores, Selection

from ...shared.console import Console
from ...shared.token_texts import text_of_bytes
from ..text import gather
from .judged import ALONE, DUPLICATE, FATES, KEPT, OUTLIER, TYPICAL, Domain, duplicates, examples, twin
from .picture import draw
from .planted import COPY, PASSAGE, TEXT, Passage, plant
from .streamed import stream_kept

LEAST_ROWS = 60
_SHOWN, _BEFORE = 300, 60
"""Characters of a sample; those of them that two near-duplicates have in common before they differ."""


def run_demo(
    *, out: Path, rows: int, eps: float, fraction: float, outlier_cut: float, seed: int, console: Console
) -> dict[str, Any]:
    """Plant, embed, prune, stream, draw; returns the document that `--json` prints.

    Raises:
        ConfigError: a value is out of range, or there is not enough text.
        MixstreamError: a command failed.
    """
    _check(rows=rows, eps=eps, fraction=fraction, outlier_cut=outlier_cut)
    begun, steps = time.monotonic(), _Commands(console)
    console.note("1/5  plant   near-copies, noise and strays among real text\n")
    planted = plant(gather(out / "text").files, rows=rows, seed=seed)
    names = sorted(planted)
    for name, passages in planted.items():
        _write(out / "planted" / f"{name}.jsonl", passages)
    place = {name: str(out / name) for name in ("shards", "emb", "prototypes", "scores", "unique", "kept")}
    alone = ("--workers", 1)  # starting processes would take longer than the work
    sources = [f"{name}={out / 'planted' / name}.jsonl" for name in names]
    steps("convert", *sources, "--out", place["shards"], "--seq-len", PASSAGE + 1, "--size-limit", "64kb", *alone)

    console.note("\n2/5  embed   each row becomes a vector\n")
    steps("embed", place["shards"], "--out", place["emb"], *alone)
    console.note("\n3/5  prune   drop near-duplicates, then both ends of the distances\n")
    emb, scores = ("--emb", place["emb"]), ("--scores", place["scores"])
    steps("prune", "fit", *emb, "--seed", seed, "--out", place["prototypes"])
    steps("prune", "assign", *emb, "--prototypes", place["prototypes"], "--out", place["scores"])
    steps("prune", "dedup", *scores, *emb, "--eps", eps, "--out", place["unique"])
    steps(
        *("prune", "keep", *scores, "--side", "hard", "--fraction", fraction, "--outlier-cut", outlier_cut),
        *("--within", place["unique"], "--control", "inverse", "--out", place["kept"]),
    )
    stored = {name: _rows(out / "shards", name) for name in names}
    domains = {name: _domain(out, name, planted[name], stored[name]) for name in names}

    console.note("\n4/5  stream  one epoch over what is kept")
    selections = {name: out / "kept" / name for name in names}
    streamed = stream_kept(out / "shards", selections, stored, out / "served", seed=seed)
    console.note("5/5  judge   hold what was dropped against what was planted\n")
    picture = out / "demo-selection.png"
    try:
        draw(domains, file=picture)
    except ImportError:
        picture.unlink(missing_ok=True)  # a picture of an earlier demo would show another selection
        console.note("no picture: matplotlib is not installed. Run: pip install matplotlib\n")
    return {
        "exact": streamed.exact,
        "settings": {"eps": eps, "fraction": fraction, "outlier_cut": outlier_cut, "side": "hard", "seed": seed},
        "domains": {name: domain.kinds() for name, domain in domains.items()},
        "duplicates": duplicates(domains["copies"]),
        "dropped": _dropped(domains),
        "rows_alone_with_their_prototype": sum(domain.alone(_clusters(out, name)) for name, domain in domains.items()),
        "samples": _samples(out, domains),
        "stream": asdict(streamed),
        "commands": steps.typed,
        "picture": str(picture) if picture.exists() else None,
        "out": str(out),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _check(*, rows: int, eps: float, fraction: float, outlier_cut: float) -> None:
    """Refuse now what a command would refuse after a minute of work."""
    if rows < LEAST_ROWS:
        raise ConfigError(
            f"--rows {rows}: the planted faults need {LEAST_ROWS} passages of each kind of text, or more."
        )
    if not 0 < eps < 2:
        raise ConfigError(f"--eps {eps:g}: give a number above 0 and below 2, such as 0.005.")
    if not 0 < fraction <= outlier_cut <= 1:
        raise ConfigError(
            f"--fraction {fraction:g} with --outlier-cut {outlier_cut:g}: give shares above 0 and at most 1, and keep "
            "no more than the cut leaves."
        )


class _Commands:
    """Runs commands as a shell would, and shows what was typed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.typed: list[str] = []

    def __call__(self, *arguments: object) -> None:
        from ...cli import main  # here: the command line finds this module, and not the other way round

        words = [str(each) for each in arguments]
        self.typed.append(" ".join(["mixstream", *words]))
        self._console.note(f"  $ {self.typed[-1]}")
        with redirect_stdout(io.StringIO()):
            status = main([*words, "--overwrite", "--json"])
        if status:
            raise MixstreamError(f"`{self.typed[-1]}` ended with exit status {status}, see above")


def _write(file: Path, passages: list[Passage]) -> None:
    """Write passages, unless they are there: `convert` then has nothing to do."""
    text = "".join(json.dumps({"text": each.text}) + "\n" for each in passages)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def _rows(shards: Path, name: str) -> list[bytes]:
    """Return the stored tokens of each row, in order."""
    reader = DomainRows.open(str(shards / name / "train"), name=name)
    return [tokens.tobytes() for block in reader.blocks(column="tokens") for tokens in block.values]


def _domain(out: Path, name: str, planted: list[Passage], stored: list[bytes]) -> Domain:
    """Find the passage of every stored row, by its text, and what became of it."""
    by_text: defaultdict[str, list[Passage]] = defaultdict(list)
    for passage in reversed(planted):
        by_text[passage.text].append(passage)
    texts = [text_of_bytes(np.frombuffer(row, dtype=np.uint16).tolist(), end="") for row in stored]
    return Domain(
        passages=[by_text[text].pop() for text in texts],
        distance_N=np.array(Scores.open(out / "scores" / name).column("proto_dist")),
        unique_N=Selection.open(out / "unique" / name).mask(),
        kept_N=Selection.open(out / "kept" / name).mask(),
        easy_N=Selection.open(out / "kept-inverse" / name).mask(),
    )


def _dropped(domains: dict[str, Domain]) -> dict[str, Any]:
    """Return, for each step and for all together: rows dropped, and how many of them were planted."""
    kinds = [kind for domain in domains.values() for kind in domain.kinds().items()]
    found = {}
    for fate in FATES:
        all_, planted = (sum(count[fate] for kind, count in kinds if kind != TEXT or every) for every in (True, False))
        found[fate] = {"rows": all_, "planted": planted}
    rows, faults = (sum(count["rows"] for kind, count in kinds if kind != TEXT or every) for every in (True, False))
    gone = sum(found[fate]["rows"] for fate in FATES if fate != KEPT)
    faults_gone = sum(found[fate]["planted"] for fate in FATES if fate != KEPT)
    return {
        **found,
        "rows": rows,
        "planted": faults,
        "precision": round(faults_gone / gone, 4) if gone else None,
        "recall": round(faults_gone / faults, 4) if faults else None,
    }


def _samples(out: Path, domains: dict[str, Domain]) -> list[dict[str, Any]]:
    """Return a few dropped and kept texts."""
    found = []
    copies = domains["copies"]
    vectors_ND = Scores.open(out / "emb" / "copies").column("embedding")
    for row in examples(copies, DUPLICATE).tolist():
        other, cosine = twin(copies, vectors_ND, row)
        if copies.passages[row].kind == COPY and copies.kept_N[other]:
            begin = _first_difference(copies.passages[row].text, copies.passages[other].text) - _BEFORE
            pair = [_sample("copies", copies, each, begin=max(0, begin)) for each in (row, other)]
            found += [pair[0], {**pair[1], "cosine": round(cosine, 4)}]
            break
    for name, fate in (("noise", TYPICAL), ("prose", TYPICAL), ("prose", OUTLIER), ("prose", KEPT)):
        shown = [row for row in examples(domains[name], fate).tolist() if domains[name].distance_N[row] > ALONE]
        found += [_sample(name, domains[name], row) for row in shown[:1]]
    return found


def _first_difference(one: str, other: str) -> int:
    return next((at for at, (mine, theirs) in enumerate(zip(one, other)) if mine != theirs), 0)


def _sample(name: str, domain: Domain, row: int, *, begin: int = 0) -> dict[str, Any]:
    passage = domain.passages[row]
    return {
        "domain": name,
        "row": row,
        "kind": passage.kind,
        "fate": str(domain.fate_N[row]),
        "distance": round(float(domain.distance_N[row]), 4),
        "text": passage.text[begin:].strip()[:_SHOWN],
    }


def _clusters(out: Path, name: str) -> NDArray[Any]:
    return Scores.open(out / "scores" / name).column("cluster")
