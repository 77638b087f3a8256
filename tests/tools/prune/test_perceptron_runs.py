"""A7: the commands and the loader give the rows that theory speaks of, and students of them are as good as it says."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

import mixstream as ms
from mixstream_tools.cli import main

sys.path.append(str(Path(__file__).parents[2] / "mixstream" / "selection" / "prototypes"))

from perceptron import points, student, theory  # pyright: ignore[reportMissingImports]

N, ALPHA, SEEDS = 100, 8, 4


def streamed(place: Path, selection: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what one epoch yields: x, y."""
    dataset = ms.StreamingDataset(
        streams=[ms.Stream(name="points", remote=str(place), selection=selection)], batch_size=40, shuffle=True
    )
    with ms.Loader(dataset) as loader:
        batches = [(batch["x"].numpy(), batch["y"].numpy()) for batch in loader]
    return tuple(np.concatenate(each) for each in zip(*batches))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory, write_dataset, write_scores) -> dict[str, np.ndarray]:
    """Return the error of the students of all seeds, by what they were trained on."""
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        top = tmp_path_factory.mktemp("run")
        x, y, z = points(N, ALPHA, 0.0, seed)
        x = x.astype(np.float32)
        table = write_dataset(top / "shards", {"x": x, "y": y.astype(np.int64)}, size=1 << 16)
        assert len(table.shards) > 3
        write_scores(top / "scores", table, {"margin": z.astype(np.float32)}, domain="points")
        arguments = [
            "prune",
            "keep",
            "--scores",
            str(top / "scores"),
            "--column",
            "margin",
            "--hard-is",
            "low",
            "--json",
        ]
        for side, more in (("hard", ["--control", "random"]), ("easy", [])):
            out = str(top / side)
            assert not main([*arguments, "--side", side, "--fraction", "0.5", "--seed", str(seed), *more, "--out", out])
        for name in ("all", "hard", "easy", "hard-random"):
            rows, labels = streamed(top / "shards", None if name == "all" else top / name)
            if name in {"hard", "easy"}:
                order = np.argsort(z)
                expected = x[order[: len(z) // 2] if name == "hard" else order[len(z) // 2 :]]
                assert {row.tobytes() for row in rows} == {row.tobytes() for row in expected}
            assert len(rows) == len(z) // (1 if name == "all" else 2)
            found.setdefault(name, []).append(student(rows.astype(float), labels.astype(float))[0])
    return {name: np.array(each) for name, each in found.items()}


@pytest.mark.parametrize("side", ["hard", "easy"])
def test_a7_students_of_streamed_rows_are_as_good_as_the_theory_says(errors: dict[str, np.ndarray], side: str) -> None:
    expected, _ = theory(ALPHA / 2, f=0.5, side=side)
    spread = errors[side].std(ddof=1) / math.sqrt(SEEDS)
    assert abs(errors[side].mean() - expected) <= max(0.012, 3 * spread)


def test_a7_hard_rows_are_as_good_as_all_and_better_than_random(errors: dict[str, np.ndarray]) -> None:
    assert errors["hard"].mean() < errors["easy"].mean() < errors["hard-random"].mean()
    difference = errors["hard"] - errors["all"]
    assert abs(difference.mean()) <= max(0.006, 3 * difference.std(ddof=1) / math.sqrt(SEEDS))
    assert errors["hard-random"].mean() == pytest.approx(theory(ALPHA / 2)[0], abs=0.03)
