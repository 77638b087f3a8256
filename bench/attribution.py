"""DsDm by the commands, on a language model whose answer is known: do scores find the rows that help?

    python bench/attribution.py [--retrains 40] [--members 4] [--seed 0]

1,000 documents of 32 tokens: 200 of the target's Markov chain, 2 x 300 of other chains, 200 of noise, in shards; a
transformer of 18,000 parameters (tests/mixstream/tiny_lm.py). Four proxies are trained on all of them. From there on
everything is a command: `mixstream attribute features`, `attribute score` for 64 queries (their mean, and each),
`select top` with its controls; and every model is trained on what `ms.Loader` delivers under a selection. All models
take the same number of steps. The limits are those of the specification; the exit status is 1 if one is missed.

`LDS` is the linear datamodeling score over random halves: the rank correlation of predicted and measured outcomes. The
mean-target one is nearly explained by how many of the target's documents a half has, which is shown beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Table

import mixstream as ms
from mixstream.selection import Scores, write_selection
from mixstream.selection.datamodels import lds, random_subsets
from mixstream_tools.cli import main as mixstream

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/mixstream"))

from tiny_lm import TinyLM, World, loss_on, losses, make_world

STEPS, BATCH, RATE, DIMS = 200, 64, 3e-3, 256
PROXIES = """
import sys
sys.path.append({tests!r})
import torch
from tiny_lm import TinyLM

def proxies(first=0, end={members}):
    models = []
    for member in range(first, end):
        model = TinyLM()
        model.load_state_dict(torch.load(f"{place}/proxy{{member}}.pt", weights_only=True))
        models.append(model)
    return models

def first():
    return proxies(end=1)
"""


class Bench:
    """The world in shards, and the commands on it."""

    def __init__(self, place: Path, *, seed: int, members: int) -> None:
        self.place, self.world, self.members = place, make_world(seed), members
        self.shards = place / "shards" / "tiny"
        with ms.MDSWriter(out=str(self.shards), columns={"tokens": "ndarray:int64:32"}, size_limit=40_000) as writer:
            for row in self.world.docs_NT.numpy():
                writer.write({"tokens": row})
        queries = [json.dumps({"tokens": row.tolist()}) for row in self.world.queries_QT]
        (place / "all.jsonl").write_text("\n".join(queries))
        for number, line in enumerate(queries):
            (place / f"q{number}.jsonl").write_text(line)
        tests = str(Path(__file__).resolve().parent.parent / "tests/mixstream")
        (place / "bench_proxies.py").write_text(PROXIES.format(tests=tests, members=members, place=place))
        sys.path.append(str(place))

    @property
    def queries(self) -> list[str]:
        """The targets of one query each."""
        return [f"q{number}" for number in range(len(self.world.queries_QT))]

    def train(self, seed: int, selection: Path | None = None) -> TinyLM:
        """Train a model on what the loader delivers."""
        stream = ms.Stream(name="tiny", local=str(self.shards), selection=selection)
        dataset = ms.StreamingDataset(streams=[stream], batch_size=BATCH, shuffle=True, shuffle_seed=seed)
        torch.manual_seed(seed)
        model = TinyLM().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        with ms.Loader(dataset) as loader:
            epochs = (batch for _ in range(STEPS) for batch in loader)
            for batch in islice(epochs, STEPS):
                optimizer.zero_grad()
                losses(model, batch["tokens"]).mean().backward()
                optimizer.step()
                schedule.step()
        return model.eval()

    def held_out(self, selection: Path | None) -> float:
        """Return the loss on held-out documents of the target, in nats, of a model trained on a selection."""
        return loss_on(self.train(50, selection), self.world.held_out_HT)

    def score(self, features: str, name: str, damping: float, targets: list[str]) -> Scores:
        """Run `attribute score`."""
        given = [each for target in targets for each in ("--target", f"{target}={self.place / target}.jsonl")]
        out = self.place / name
        command(
            "attribute", "score", self.place / features, *given, "--damping", damping, "--out", out, "--device", "cpu"
        )
        return Scores.open(out, domain="tiny")

    def top(self, scores: str, name: str, *options: object, control: str = "") -> Path:
        """Run `select top`; returns the selection, or its control."""
        out, more = self.place / name, ("--control", control) if control else ()
        command("select", "top", self.place / scores / "tiny", *options, *more, "--out", out)
        return self.place / f"{name}-{control}" if control else out

    def subset(self, chosen_N: np.ndarray, name: str, scores: Scores) -> Path:
        """Write rows as a selection."""
        out = self.place / name
        made = {"inputs": {}}
        write_selection(out, domain="tiny", table=scores.table, kept=chosen_N, rule={"is": name}, parents={}, made=made)
        return out


def command(*arguments: object) -> dict[str, Any]:
    """Run a command of mixstream; returns its document."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = mixstream([*map(str, arguments), "--json"])
    if status:
        raise SystemExit(f"mixstream {' '.join(map(str, arguments[:2]))} failed: {out.getvalue()}")
    return json.loads(out.getvalue())


def found(scores: Scores, world: World) -> tuple[float, float]:
    """Return the share of the target's documents among the 200 best rows, and the area under the ROC curve."""
    score, is_target = np.asarray(scores.column("score")), world.is_target
    ranks = score.argsort().argsort()
    area = (ranks[is_target].mean() - (is_target.sum() - 1) / 2) / (~is_target).sum()
    return is_target[np.argsort(-score, kind="stable")[:200]].mean(), area


def features(bench: Bench, table: Table) -> None:
    """Train the proxies and make their features."""
    table.title(f"{bench.members} proxies, trained on all documents by the loader")
    for member in range(bench.members):
        torch.save(bench.train(member).state_dict(), bench.place / f"proxy{member}.pt")
    table.title("mixstream attribute features")
    options = ("--project-dim", DIMS, "--dtype", "f4", "--device", "cpu", "--workers", 1)
    for name, model, output in [
        ("four", "proxies", "log-odds"),
        ("one", "first", "log-odds"),
        ("loss", "proxies", "loss"),
    ]:
        start, given = time.perf_counter(), ("--model", f"bench_proxies:{model}", "--output-function", output)
        command("attribute", "features", bench.shards, *given, *options, "--out", bench.place / name)
        seconds = time.perf_counter() - start
        table.line(f"  {model}, {output}: rows/s", 1000 / seconds, form="7.0f")


def precision(bench: Bench, table: Table) -> None:
    """Print how many of the 200 best rows are the target's."""
    table.title("share of the target's documents among the 200 best rows (chance .20), and area under the curve")
    at = {}
    for name in ("one", "four", "loss"):
        for damping in (0, 0.1, 1, 10):
            scores = bench.score(name, f"{name}-{damping}", damping, ["all"])
            at[name, damping], area = found(scores, bench.world)
            limit = 0.90 if (name, damping) == ("four", 1) else None
            label = {"one": "1 proxy", "four": f"{bench.members} proxies", "loss": f"{bench.members} proxies, loss"}[
                name
            ]
            table.line(f"  {label}, damping {damping}", at[name, damping], at_least=limit)
            if limit:
                table.line("    area under the curve", area, at_least=0.98)
    worst = max(abs(at["four", damping] - at["loss", damping]) for damping in (0, 0.1, 1, 10))
    table.line("  largest difference of log-odds and loss", worst, at_most=0.05)


def trained(bench: Bench, table: Table) -> None:
    """Print the held-out loss on the target of models that were trained on selections."""
    table.title(f"loss on held-out documents of the target, after {STEPS} steps of {BATCH} rows")
    scores = Scores.open(bench.place / "four-1", domain="tiny")
    random = {
        rows: bench.held_out(bench.top("four-1", f"random{rows}", "--rows", rows, control="random"))
        for rows in (200, 400)
    }
    oracle = bench.held_out(bench.subset(bench.world.is_target, "oracle", scores))
    table.line("  all 1,000", bench.held_out(None))
    table.line("  random 200", random[200])
    table.line("  oracle 200", oracle)
    limit = min(random[200] - 0.8, oracle + 0.15)
    table.line("  top 200", bench.held_out(bench.top("four-1", "top200", "--rows", 200)), at_most=limit)
    bottom = bench.held_out(bench.top("four-1", "bottom200", "--rows", 200, control="inverse"))
    table.line("  bottom 200", bottom, at_least=random[200] + 0.8)
    table.line("  random 400", random[400])
    top = bench.held_out(bench.top("four-1", "top400", "--rows", 400))
    table.line("  top 400", top, at_most=random[400] - 0.4)
    table.line("  top 800", bench.held_out(bench.top("four-1", "top800", "--rows", 800)))


def correlation(bench: Bench, table: Table, retrains: int) -> None:
    """Print the LDS over random halves."""
    table.title(f"LDS over {retrains} random halves, damping 1")
    scores = bench.score("four", "each", 1, ["all", *bench.queries])
    subsets_SN, outcomes = random_subsets(scores.rows, retrains, seed=9), []
    for number, chosen_N in enumerate(subsets_SN):
        model = bench.train(1000 + number, bench.subset(chosen_N, f"half{number}", scores))
        with torch.no_grad():
            outcomes.append(-losses(model, bench.world.queries_QT).numpy())
    outcome_SQ = np.array(outcomes)
    each_QN = np.stack([scores.column(f"score.{name}") for name in bench.queries])
    mean_S = outcome_SQ.mean(axis=1)
    enough = retrains >= 40
    table.line("  mean target", lds(scores.column("score.all"), subsets_SN, mean_S), at_least=0.75 if enough else 0.65)
    per_query = lds(each_QN, subsets_SN, outcome_SQ).mean()
    table.line("  single queries, mean", per_query, at_least=0.25 if enough else None)
    table.line("  count of the target's documents", lds(bench.world.is_target.astype(float), subsets_SN, mean_S))


def main() -> int:
    """Run the bench; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--retrains", type=int, default=40, help="models for the LDS; 0 for none")
    parser.add_argument("--members", type=int, default=4, help="proxy models")
    parser.add_argument("--seed", type=int, default=0, help="of the documents")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(seeds=range(1))
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), seed=options.seed, members=options.members)
        features(bench, table)
        precision(bench, table)
        trained(bench, table)
        if options.retrains:
            correlation(bench, table, options.retrains)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
