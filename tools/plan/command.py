"""`mixstream plan`: its options, its help, and the flow of the command. It only writes its result."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.storage import is_local, local_path, redact
from mixstream.units import parse_count

from ..shared.console import Console
from ..shared.numbers import MaybePositive, Positive, real
from .course import Course, Float64, look_ahead
from .show import describe_preview, describe_source, show_preview, show_source, warnings_of
from .source import Sizes, Source, open_source, read_shards

_Weights = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True, show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
_Mixer = Literal["natural", "stratified", "temperature", "unimax"]


def plan(
    source: Annotated[str | None, Parameter(name="SRC")] = None,
    /,
    *,
    data: str | None = None,
    split: str = "train",
    selection: str | None = None,
    mixer: _Mixer | None = None,
    weights: _Weights = (),
    temperature: Annotated[float | None, real(above=0, optional=True)] = None,
    max_epochs: Annotated[float | None, real(above=0, below=math.inf, optional=True)] = None,
    steps: str | None = None,
    tokens: str | None = None,
    batch_size: MaybePositive = None,
    points: Positive = 10,
    as_json: _Json = False,
) -> int:
    """Show what a mixture reads: in a run so far, or in a future run.

    mixstream plan runs/x/mixture.jsonl
    mixstream plan checkpoint.pt --data shards/ --steps 100k
    mixstream plan --data shards/ --mixer unimax --max-epochs 4 --tokens 10b
    mixstream plan --data shards/ --weights web=0.7 code=0.3 \\
        --steps 20k --batch-size 256

    A RUN. SRC is a mixing log (or the directory with its mixture.jsonl), a
    state saved as JSON, or a torch checkpoint with a state in it. The output
    has rows, tokens and epochs of each domain, weights by step, and for a log
    the losses. A state does not have the length of a row; --data gives it.

    A PREVIEW. With --steps or --tokens, the run is continued to that length
    with the known weights; after the last known weights, these stay. With
    --data alone, the preview is of a run from its first step, mixed by --mixer
    or --weights, over one epoch of all samples if no length is given. No batch
    is drawn; a preview differs from the run by a few rows.

    EPOCHS. A domain that is read more than 4 times gets a warning. With
    --max-epochs, each domain leaves the mixture after so many epochs; if no
    domain remains before the end, the exit status is 1. With --mixer unimax it
    is the maximum number of epochs that the weights are computed for.

    Args:
        source: a mixing log, a state or a checkpoint.
        data: directory or URL of shards that `mixstream convert` wrote.
        split: the split of the data.
        selection: the selections, or buckets, by which --data is read.
        mixer: weights by size: proportional, equal, to the power 1 / temperature, or equal up to --max-epochs.
        weights: fixed weights, NAME=WEIGHT for each domain.
        temperature: of --mixer temperature; 1 is natural, large values are nearly equal.
        max_epochs: maximum number of epochs of a domain.
        steps: length of the whole run in steps (20k, 1m).
        tokens: length of the whole run in tokens (500m, 10b).
        batch_size: rows of a step over all ranks; default: that of the run.
        points: at how many steps to show the weights.
        as_json: print one JSON document, not tables.
    """
    _check(source, data, mixer=mixer, weights=weights, temperature=temperature, max_epochs=max_epochs)
    if points < 1 or (batch_size is not None and batch_size < 1):
        raise ConfigError("--points and --batch-size are whole numbers of 1 or more")
    run = open_source(local_path(source)) if source is not None else None
    domains = _domains(run, data, split, selection)
    batch = batch_size or (run.batch if run is not None else None)
    end = _length(steps, tokens, domains, batch, whole=run is None)
    console, answer = Console(as_json=as_json), _Answer()
    if run is not None:
        answer.run(run, domains, points)
    if end is not None:
        if run is None:
            course = Course.constant(
                _static(domains, mixer, weights, temperature, max_epochs, budget=end * (batch or 1))
            )
            cap = None if mixer == "unimax" else max_epochs
        else:
            course, cap = _course(run), max_epochs
        answer.preview(run, course, domains, cap=cap, end=end, batch=batch)
    for warning in answer.warnings():
        console.note(f"warning: {warning}")
    console.result(answer.document(), *answer.parts)
    return 0 if answer.reaches else 1


class _Answer:
    """Collects the parts of the result."""

    def __init__(self) -> None:
        self.source: dict[str, Any] | None = None
        self.ahead: dict[str, Any] | None = None
        self.parts: list[Any] = []
        self._notes: list[str] = []

    @property
    def reaches(self) -> bool:
        return self.ahead is None or bool(self.ahead["reaches_the_end"])

    def run(self, run: Source, domains: Sizes, points: int) -> None:
        """Add the run so far."""
        self.source = describe_source(run, domains, points=points)
        self.parts += show_source(self.source)
        if (steps := self.source.get("loss_steps")) is not None:
            self.parts += ["", f"losses are means over the first and the last {steps} steps of the log, in nats"]
        if self.source.get("first_step"):
            self._notes.append(
                f"the log begins at step {self.source['first_step']:,}: rows of earlier steps are not counted"
            )
        if run.skipped:
            self.parts += ["", f"steps that are left out (skip): {run.skipped}; their rows count as drawn"]
        if run.kind == "state" and run.course is None:
            self.parts += ["", f"its weights are {run.mixer}'s, which the state does not hold: give the log of the run"]
        elif run.learns and run.course is not None:
            self.parts += [
                "",
                f"weights are known up to step {run.course.known_to:,}; later ones depend on losses that are to come",
            ]

    def preview(
        self, run: Source | None, course: Course, domains: Sizes, *, cap: float | None, end: int, batch: int | None
    ) -> None:
        """Add the run at step `end`."""
        # A log is replayed from its beginning; a state continues from its step.
        state = run if run is not None and run.kind == "state" else None
        first, drawn_K = (state.step, state.drawn_K) if state is not None else (0, np.zeros(len(domains.names)))
        if end < first:
            raise ConfigError(f"the run is at step {first:,} already: give more --steps or --tokens")
        caps = tuple(cap if own is None else own for own in (state.max_epochs_K if state else (cap,) * len(drawn_K)))
        room_K = _room(domains, caps, drawn_K)
        outlook = look_ahead(course, first=first, end=end, batch=batch or 1, room_K=room_K)
        self.ahead = describe_preview(
            outlook, domains, drawn_K=drawn_K, batch=batch or 1, asked=end, counts_steps=batch is not None
        )
        self.parts += [""] * bool(self.parts) + show_preview(self.ahead)
        if run is not None and end > course.known_to + 1:
            self.parts += ["", f"from step {course.known_to:,} on, the last known weights are assumed"]
        if not self.reaches:
            at = f"step {outlook.end:,}, of {end:,}" if batch is not None else f"row {outlook.end:,}, of {end:,}"
            self._notes.append(f"the run ends at {at}: every domain has reached its maximum number of epochs")

    def warnings(self) -> list[str]:
        """Return the warnings, as sentences."""
        shown = self.ahead or self.source or {"domains": ()}
        return [*self._notes, *warnings_of(shown["domains"])]

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        status = "ok" if self.reaches else "ends early"
        return {"status": status, "source": self.source, "preview": self.ahead, "warnings": self.warnings()}


def _check(source: str | None, data: str | None, **options: Any) -> None:
    """Refuse options that contradict each other."""
    mixer, given = options["mixer"], [f"--{name}" for name in ("mixer", "weights", "temperature") if options[name]]
    if source is None and data is None:
        raise ConfigError("nothing to plan: give a mixing log, a state or a checkpoint, or shards with --data")
    if source is not None and not is_local(source):
        raise ConfigError(
            f"{redact(source)}: a log, a state or a checkpoint is read from local disk: copy it here first; shards in "
            "a store go to --data"
        )
    if source is not None and given:
        raise ConfigError(f"{source} has its own weights: leave out {', '.join(given)}, or plan with --data alone")
    if mixer is not None and options["weights"]:
        raise ConfigError("weights are given twice: use either --mixer or --weights")
    if (mixer == "temperature") != (options["temperature"] is not None):
        raise ConfigError("--mixer temperature and --temperature TAU are given together, as in --temperature 3.3")
    if mixer == "unimax" and options["max_epochs"] is None:
        raise ConfigError("--mixer unimax needs a maximum number of epochs: give --max-epochs, such as 4")
    if (passes := options["max_epochs"]) is not None and not 0 < passes < float("inf"):
        raise ConfigError(f"--max-epochs {passes:g}: give a number above 0, or leave it out for no limit")


def _domains(run: Source | None, data: str | None, split: str, selection: str | None) -> Sizes:
    if data is None:
        if selection is not None:
            raise ConfigError("--selection goes with --data: without it, the run knows how many samples it reads")
        assert run is not None
        return run.domains
    shards = read_shards(data, split)
    if selection is not None:
        shards = shards.kept(selection)
    elif run is not None and run.selected:
        raise ConfigError(
            f"{run.where} reads the domains {list(run.selected)} by a selection, and --data has all of their samples: "
            "give that --selection too, or leave out --data"
        )
    return shards if run is None else shards.among(run.domains.names, where=run.where)


def _length(steps: str | None, tokens: str | None, domains: Sizes, batch: int | None, *, whole: bool) -> int | None:
    """Return the length of the run to preview, in steps, or in rows if the batch size is unknown; None for no preview.

    With `whole`, the default is one epoch of all samples.
    """
    if steps is not None and tokens is not None:
        raise ConfigError("the length is given twice: use either --steps or --tokens")
    if steps is not None:
        if batch is None:
            raise ConfigError("--steps needs --batch-size, the rows of a step over all ranks")
        return parse_count(steps, name="--steps", of="steps")
    if tokens is not None:
        if domains.row_tokens is None:
            raise ConfigError("--tokens needs the number of tokens in a row, which is unknown: give --steps, or --data")
        rows = parse_count(tokens, name="--tokens", of="tokens") // domains.row_tokens
    elif whole:
        rows = int(domains.samples_K.sum())
    else:
        return None
    return -(-rows // (batch or 1))


def _course(run: Source) -> Course:
    if run.course is None:
        raise ConfigError(
            f"{run.where} has no weights to continue with: leave out --steps and --tokens, or give the log of a run "
            "that has trained"
        )
    return run.course


def _room(domains: Sizes, caps: tuple[float | None, ...], drawn_K: Float64) -> Float64:
    """Return the rows that may still be drawn of each domain, float64 [K]."""
    if not any(caps):
        return np.full(len(drawn_K), np.inf)
    limits = [
        math.inf if passes is None else math.floor(passes * n) for passes, n in zip(caps, domains.samples_K.tolist())
    ]
    return np.maximum(np.array(limits) - drawn_K, 0)


def _static(
    domains: Sizes,
    mixer: _Mixer | None,
    weights: tuple[str, ...],
    temperature: float | None,
    max_epochs: float | None,
    *,
    budget: int,
) -> Float64:
    """Return the weights of a static mixture, float64 [K]."""
    from mixstream.mixers import Natural, Static, Stratified, Temperature, UniMax

    if weights:
        static = Static(dict(map(_weight, weights)))
    elif mixer == "temperature":
        static = Temperature(temperature or 0).bind(domains.names, domains.samples_K)
    elif mixer == "unimax":
        static = UniMax(budget=budget, max_epochs=max_epochs or 0).bind(domains.names, domains.samples_K)
    else:
        by_size = Stratified() if mixer == "stratified" else Natural()
        static = by_size.bind(domains.names, domains.samples_K)
    weights_K = np.array(static.proportion_of(domains.names))
    return weights_K / weights_K.sum()


def _weight(word: str) -> tuple[str, float]:
    name, _, number = word.rpartition("=")
    with suppress(ValueError):
        if name:
            return name, float(number)
    raise ConfigError(f"--weights {word}: write NAME=WEIGHT, as in web=0.7")
