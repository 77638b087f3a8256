"""Write what tests/mixstream/test_previous_*.py compare with: files and rows of the version before a rebuild.

    git checkout 21b0f83        # the version before
    python tests/data/previous/make.py

Everything but the fingerprints of a killed process is the same in every run of this script. Do not run it with a newer
version: what it writes would prove nothing. It writes whatever is missing; remove a part to have it made anew.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent / "mixstream"), str(HERE.parent.parent / "tools")]

import numpy as np
import previous
import torch
from previous import CASES, PREVIOUS

import mixstream as ms

SIZES = {"web": 60, "code": 33, "law": 19}
HELD_OUT = {"web": 12, "code": 9, "law": 7}
FIRST = {"web": 1000, "code": 2000, "law": 3000}


def dump(name: str, value: Any) -> None:
    """Write a JSON document; lists of steps with a line each."""
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict) and any(key in value for key in ("before", "after")):
        steps = [
            f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(step, separators=(",", ":")) for step in item) + "\n]"
            if key in ("before", "after")
            else f"{json.dumps(key)}: {json.dumps(item)}"
            for key, item in value.items()
        ]
        path.write_text("{\n" + ",\n".join(steps) + "\n}\n")
    else:
        path.write_text(json.dumps(value, indent=None if name.startswith("states/") or name == "replays.json" else 1) + "\n")


def write(out: Path, ids: Any, *, encoding: str = "ndarray:uint16:4", size: int = 420, **kw: Any) -> None:
    """Write one dataset, about a dozen rows to a shard."""
    with ms.MDSWriter(columns={"tokens": encoding}, out=str(out), size_limit=size, max_workers=1, **kw) as writer:
        for number in ids:
            writer.write({"tokens": np.full(4, number, np.uint16)})


def spoil(shard: Path, row: int) -> None:
    """Make one sample of a shard undecodable."""
    data = bytearray(shard.read_bytes())
    begin = int(np.frombuffer(data, np.uint32, 1, 4 + 4 * row)[0])
    data[begin + 4] = 0xFF
    shard.write_bytes(data)


def make_data() -> None:
    """Write the domains: with validation rows, spoiled ones, and compressed ones."""
    for name, size in SIZES.items():
        first = FIRST[name]
        write(HERE / "library" / name / "train", range(first, first + size))
        write(HERE / "library" / name / "val", range(first + 500, first + 500 + HELD_OUT[name]))
        write(HERE / "spoiled" / name / "train", range(first, first + size), encoding="ndarray:uint16", size=460)
        write(HERE / "packed" / name, range(first, first + size), size=900, compression="zstd", hashes=["xxh64"])
    spoil(HERE / "spoiled/web/train/shard.00001.mds", 2)
    spoil(HERE / "spoiled/web/train/shard.00003.mds", 0)
    spoil(HERE / "spoiled/law/train/shard.00000.mds", 4)
    (HERE / "spoiled/code/train/shard.00001.mds").unlink()


def make_runs() -> None:
    """Run all cases."""
    for name, case in CASES.items():
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as log:
            where = Path(log) if case.log else None
            if case.state_of is None:
                found["before"], state = previous.begun(case, where)
                dump(f"states/{name}.json", state)
            state = previous.stored(f"states/{case.state_of or name}.json")
            found["after"], found["explained"] = previous.resumed(case, state, where)
            dump(f"rows/{name}.json", found)
            if where is not None:
                (HERE / "logs").mkdir(exist_ok=True)
                shutil.copy(where / "mixture.jsonl", HERE / "logs" / f"{name}.jsonl")


def make_small() -> None:
    """Write validation rows and the numbering of samples."""
    orders = (("web", "code", "law"), ("law", "web", "code"))
    rows = {}
    for names in orders:
        rows[" ".join(names)] = [
            [{"rows": 5, "batch_size": 4}, previous.validation(names, rows=5, batch_size=4)],
            [{"rows": 6, "seed": 7}, previous.validation(names, rows=6, seed=7)],
        ]
    dump("validation.json", rows)
    dump("tables.json", {" ".join(n): previous.tables(previous.dataset_of(previous.Case(names=n))) for n in orders})


def make_replays() -> None:
    """Replay the logs."""
    import test_previous_version

    replays = {}
    for name in [name for name, case in CASES.items() if case.log]:
        mixer = ms.replay(HERE / "logs" / f"{name}.jsonl")
        replays[name] = {"repr": repr(mixer), "rows": test_previous_version.replayed(name, mixer)}
    dump("replays.json", replays)


def main() -> None:
    """Make what is missing."""
    if not (HERE / "library").exists():
        make_data()
    if not (HERE / "rows").exists():
        make_runs()
    make_small()
    make_replays()
    commit = subprocess.run(["git", "log", "-1", "--format=%H", "--", "mixstream"], check=True, capture_output=True, text=True, cwd=HERE)
    versions = {"commit": commit.stdout.strip(), "python": platform.python_version()}
    dump("versions.json", versions | {"mixstream": ms.__version__, "numpy": np.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    assert PREVIOUS == HERE
    main()
