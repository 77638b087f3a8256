"""Lightning on several ranks (`make test-trainers`): runs are killed in mid-epoch, and go on with other numbers.

Ranks are those of Lightning's own launcher, which starts the program once more for each, and of torchrun. What fits the
gate is in `tests/mixstream/integrations/test_lightning.py`.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.timeout(900)
HERE = Path(__file__).parents[1] / "mixstream/integrations"
sys.path.append(str(HERE))

from lightning_job import dataset, write_text  # noqa: E402 - it is found through the path above

import mixstream as ms  # noqa: E402

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def job(
    root: Path, out: Path, ranks: int, *, torchrun: bool = False, package: str = "lightning.pytorch", **settings: Any
):
    """Run `lightning_job.py` on `ranks` ranks; return its exit code and what it printed."""
    out.mkdir(exist_ok=True)
    trainer = {"devices": ranks, "strategy": "ddp" if ranks > 1 else "auto", **settings.pop("trainer", {})}
    start = [*TORCHRUN, str(ranks)] if torchrun else [sys.executable]
    text = json.dumps({"root": str(root), "out": str(out), "trainer": trainer, **settings})
    environment = {key: value for key, value in os.environ.items() if key not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}}
    environment |= {"OMP_NUM_THREADS": "1", "LIGHTNING_PACKAGE": package}
    environment |= {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [*start, str(HERE / "lightning_job.py"), text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def read(out: Path, ranks: int) -> dict[int, Any]:
    """Step -> the rows of the global batch, as the ranks of a run took them; the later line of a rank counts."""
    found: list[dict[int, Any]] = []
    for rank in range(ranks):
        lines = [json.loads(line) for line in (out / f"rows-{rank}.jsonl").read_text().splitlines()]
        found.append({step: rows for step, rows, _ in lines})
        (out / f"rows-{rank}.jsonl").unlink()
    assert len({tuple(steps) for steps in found}) == 1, "a rank took other steps"
    return {step: [row for steps in found for row in steps[step]] for step in found[0]}


def batches(root: Path, n: int, **options: Any) -> list[Any]:
    found: list[Any] = []
    with ms.Loader(dataset(root, **options)) as loader:
        while len(found) < n:
            found += [batch["tokens"].tolist() for batch in loader]
    return found[:n]


@pytest.mark.parametrize(("package", "torchrun"), [("lightning.pytorch", True), ("pytorch_lightning", False)])
def test_killed_on_two_ranks_it_goes_on_with_four_and_with_one(root, tmp_path, package, torchrun):
    options: dict[str, Any] = {"package": package, "torchrun": torchrun, "learns": False}
    code, text = job(root, tmp_path, 2, kill=9, **options)
    assert code != 0, text
    seen = {step: rows for step, rows in read(tmp_path, 2).items() if step < 9}
    for ranks, until in ((4, 14), (1, 20)):
        saved = sorted((tmp_path / "saved").glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
        at = int(saved[-1].stem.partition("=")[2])
        more: dict[str, Any] = {"fit": {"ckpt_path": str(saved[-1])}, "trainer": {"max_steps": until}}
        code, text = job(root, tmp_path, ranks, **more, **options)
        assert code == 0, text
        found = read(tmp_path, ranks)
        assert min(found) == at
        seen |= found
    assert [seen[step] for step in range(20)] == batches(root, 20)


def test_ado_moves_on_two_ranks_and_goes_on_after_a_kill(root, tmp_path):
    code, text = job(root, tmp_path, 2, kill=20, trainer={"max_steps": 30})
    assert code != 0, text
    seen = {step: rows for step, rows in read(tmp_path, 2).items() if step < 20}
    more: dict[str, Any] = {"fit": {"ckpt_path": str(tmp_path / "saved/step=19.ckpt")}, "trainer": {"max_steps": 30}}
    code, text = job(root, tmp_path, 4, version=1, **more)
    assert code == 0, text
    seen |= read(tmp_path, 4)
    assert [seen[step] for step in range(30)] == batches(root, 30, mixer=ms.replay(tmp_path / "log"))
    lines = [
        line for line in map(json.loads, (tmp_path / "log/mixture.jsonl").read_text().splitlines()) if "step" in line
    ]
    assert {line["step"] for line in lines if line["event"] == "step"} == set(range(30))
    weights = {json.dumps(line["weights"]) for line in lines if line["event"] == "step"}
    assert len(weights) > 1
    table = list(csv.DictReader((tmp_path / "csv/version_1/metrics.csv").read_text().splitlines()))
    by_step = {line["step"]: line for line in lines if line["event"] == "step"}
    for line in table:  # the mean over two steps and all ranks, as our own log has it
        step = int(line["step"])
        pair = [by_step[step - 1], by_step[step]] if step > 19 else []
        for name in ("code", "mail") if pair else ():
            total = sum(one["loss"][name] * one["count"][name] for one in pair)
            assert float(line[f"loss/{name}"]) == pytest.approx(
                total / sum(one["count"][name] for one in pair), abs=1e-5
            )
