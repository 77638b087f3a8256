"""One run of `mixstream attribute score`: the targets are read, the scores solved and written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstream.selection import Scores
from mixstream.selection.datamodels import Damping

from ..shared.console import Console
from ..shared.outputs import Output
from . import show
from .proxies import describe_proxies
from .score import Scoring, open_features, provenance_of, solve_targets, write_scores
from .settings import settings_of
from .targets import TargetReader, TargetSet


@dataclass(kw_only=True)
class ScoreRun:
    """One run of the command.

    Args:
        features: directory of the features.
        output: where scores go: OUT/DOMAIN.
        damping: c, or "auto".
        how: "mean" or "max" over target sets.
        unit: whether features are scaled to length 1.
        console: for notes, progress and the result.
    """

    features: str
    output: Output
    damping: Damping
    how: str
    unit: bool
    console: Console

    def show_plan(self, sets: Mapping[str, str]) -> None:
        """Print what would be scored."""
        rows = {name: scores.rows for name, scores in open_features(self.features).items()}
        line = f"{sum(rows.values()):,} rows would be scored for {', '.join(sets)}, into {self.output.out}"
        self.console.result(
            {"status": self.output.status, "out": self.output.out, "domains": rows, "targets": dict(sets)}, line
        )

    def run(
        self, sets: Mapping[str, str], *, models: Sequence[str], tokenizer: str | None, device: str, memory: int
    ) -> None:
        """Score the rows and print the result.

        Args:
            sets: name -> path of each target set.
            models: the proxies; none for where they lay when the features were made.
            tokenizer: of texts; None for that of the first proxy.
            device: for the gradients of targets.
            memory: for the gradients of targets, in bytes.

        Raises:
            ConfigError: the models changed, a target set cannot be read, or the damping does not fit.
            OutputExistsError: scores of other inputs are there.
        """
        start, found = time.monotonic(), open_features(self.features)
        made = next(iter(found.values())).made
        names = models or tuple(dict.fromkeys(entry["place"] for entry in made["models"]))
        settings = settings_of(made, describe_proxies(names), device=device, memory=memory)
        reader = TargetReader(settings=settings, tokenizer=tokenizer or _tokenizer_of(made, names[0]), unit=self.unit)
        scoring = Scoring(damping=self.damping, how=self.how, unit=self.unit, weighted=settings.is_weighted)
        targets = self._read(reader, sets, made)
        todo = self._todo(found, targets, scoring, reader.tokenizer_hash)
        used = self._score(found, todo, targets, scoring, reader) if todo else None
        domains = {name: show.describe_scores(Scores.open(self.output.place(name))) for name in found}
        seconds = time.monotonic() - start
        document = {
            "status": self.output.status if todo else "nothing to do",
            "out": self.output.out,
            "targets": show.describe_targets(targets),
            "damping": used,
            "domains": domains,
            "seconds": round(seconds, 3),
        }
        rows = sum(counts["rows"] for counts in domains.values())
        self.console.result(document, show.show_scores(domains), show.closing(self.output.out, seconds, rows))

    def _read(self, reader: TargetReader, sets: Mapping[str, str], made: Mapping[str, Any]) -> list[TargetSet]:
        """Read the target sets, and remark on what is odd."""
        targets = [reader.read(name, path) for name, path in sets.items()]
        for target in targets:
            if target.cut:
                self.console.note(
                    f"note: {target.cut:,} targets of {target.name} are longer than the models' context, and were cut"
                )
            if target.left_out:
                self.console.note(
                    f"note: {target.left_out:,} targets of {target.name} have nothing to predict, and were left out"
                )
        said = made.get("tokenizer", {}).get("hash")
        if None not in (reader.tokenizer_hash, said) and said != reader.tokenizer_hash:
            self.console.note(
                "note: the dataset was tokenised with another tokenizer file than the targets (hashes differ); check "
                "that both give the same tokens"
            )
        return targets

    def _todo(
        self, found: Mapping[str, Scores], targets: Sequence[TargetSet], scoring: Scoring, tokenizer: str | None
    ) -> dict[str, Scores]:
        """Return the features whose scores are not there yet."""
        todo = {}
        for name, scores in found.items():
            made = provenance_of(scores, found, targets, scoring, solved=None, tokenizer=tokenizer)
            place = self.output.apart_from(name, scores.path, "the features")
            if not self.output.is_done(place, "scores", made):
                todo[name] = scores
        return todo

    def _score(
        self,
        found: Mapping[str, Scores],
        todo: Mapping[str, Scores],
        targets: Sequence[TargetSet],
        scoring: Scoring,
        reader: TargetReader,
    ) -> float | str:
        """Solve for the targets and write the scores of `todo`; returns the damping that was used."""
        twice = [*found.values(), *todo.values()]  # the Gram matrices need all domains
        total = reader.settings.members * sum(scores.rows for scores in twice)
        with self.console.progress("scores", total=total, unit="rows") as advance:
            solved = solve_targets(found, targets, scoring, advance)
            for name, scores in todo.items():
                made = provenance_of(scores, found, targets, scoring, solved=solved, tokenizer=reader.tokenizer_hash)
                write_scores(
                    scores,
                    self.output.place(name),
                    targets=targets,
                    solved=solved,
                    scoring=scoring,
                    made=made,
                    overwrite=self.output.overwrite,
                    advance=advance,
                )
        return "inf" if math.isinf(solved.damping) else solved.damping


def _tokenizer_of(made: Mapping[str, Any], place: str) -> str:
    """Return the tokenizer of texts: that of the first proxy, or the bytes if the dataset was made of bytes."""
    if not (Path(place) / "tokenizer.json").is_file() and made.get("tokenizer", {}).get("name") == "bytes":
        return "bytes"
    return place
