"""Mixing logs, damaged, and read for tables and for a replay.

A damaged log is refused by name (`ConfigError`: it is none, `StateError`). Or it is read; then every weight is whole
parts that sum to 1, and a run that replays it draws a batch.
"""

from __future__ import annotations

import json
import random
import tempfile
import warnings
from functools import cache
from pathlib import Path

from _mutate import damaged, mutated  # pyright: ignore[reportMissingImports] - `_worker.py` sets the path
from previous import CASES, Case, begun, dataset_of  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import ConfigError, MixstreamError, StateError
from mixstream.feedback import read_log
from mixstream.plan.weights import WEIGHT_UNIT

KINDS = {
    "fixed": Case(log=True, report="rows", before=30, each={"law": {"max_epochs": 1}}),
    **{name: CASES[name] for name in ("static", "ado", "aioli_probing")},
}


@cache
def lines_of(name: str) -> list[bytes]:
    """Return the lines of a log."""
    place = Path(tempfile.mkdtemp())
    begun(KINDS[name], place)
    if not (place / "mixture.jsonl").is_file():
        raise AssertionError(f"{name} wrote no log")
    return (place / "mixture.jsonl").read_bytes().splitlines(keepends=True)


def prepare(seed: int) -> None:
    """Write the log that `seed` damages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines_of(random.Random(seed).choice(list(KINDS)))


def case(seed: int, place: Path) -> str:
    """Run one case."""
    rng = random.Random(seed)
    name = rng.choice(list(KINDS))
    lines = list(lines_of(name))
    if rng.random() < 0.3:
        data = damaged(rng, b"".join(lines))
    else:
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = 0 if rng.random() < 0.3 else rng.randrange(len(lines))
            change = rng.random()
            if change < 0.1:
                lines.insert(rng.randrange(len(lines) + 1), lines[at])
            elif change < 0.2 and len(lines) > 1:
                del lines[at]
            else:
                try:
                    lines[at] = json.dumps(mutated(rng, json.loads(lines[at]))[0]).encode() + b"\n"
                except (RecursionError, ValueError):
                    lines[at] = b"[" * 50_000 + b"\n"
        data = b"".join(lines)
    file = place / "mixture.jsonl"
    file.write_bytes(data)
    return _read(rng, name, file)


def _read(rng: random.Random, name: str, file: Path) -> str:
    try:
        logged = read_log(file)
        assert (logged.weights_TK.sum(axis=1) == WEIGHT_UNIT).all()
        mixer = logged.replay()
    except (ConfigError, StateError) as error:
        str(error).encode()
        return type(error).__name__
    if rng.random() < 0.5:
        return "read"
    case = KINDS[name]
    options = {key: value for key, value in case.options.items() if key not in ("mixer", "lag", "epoch_size")}
    try:
        with ms.Loader(dataset_of(Case(each={}, options={**options, "mixer": mixer})), prefetch=0) as loader:
            for _ in zip(range(3), loader):
                pass
    except MixstreamError as error:
        str(error).encode()
        return f"replay: {type(error).__name__}"
    return "replayed"
