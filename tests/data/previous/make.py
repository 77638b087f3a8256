"""Write what tests/mixstream/test_previous_*.py compare with: files and rows of the version before a rebuild.

    git checkout 21b0f83        # the version before
    python tests/data/previous/make.py

Files are the same in every run of this script, but for which shards caches/limited and caches/killed hold. Do not run
it with a newer version: what it writes would prove nothing. It writes whatever is missing; remove a part to have it
made anew.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent / "mixstream"), str(HERE.parent.parent / "tools")]

import numpy as np  # noqa: E402
import previous  # noqa: E402
import torch  # noqa: E402
from previous import CASES, PREVIOUS  # noqa: E402

import mixstream as ms  # noqa: E402

SIZES = {"web": 60, "code": 33, "law": 19}
HELD_OUT = {"web": 12, "code": 9, "law": 7}
FIRST = {"web": 1000, "code": 2000, "law": 3000}


def dump(name: str, value: Any, indent: int | None = 1) -> None:
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
        if indent is None and isinstance(value, dict) and not name.startswith("states/"):  # a line for each entry
            lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())
            path.write_text(f"{{\n{lines}\n}}\n")
        else:
            path.write_text(json.dumps(value, indent=indent) + "\n")


def write(out: Path, ids: Any, *, encoding: str = "ndarray:uint16:4", size: int = 420, **kw: Any) -> None:
    """Write one dataset, about a dozen rows to a shard."""
    width = 32 if encoding.endswith(":32") else 4
    with ms.MDSWriter(columns={"tokens": encoding}, out=str(out), size_limit=size, max_workers=1, **kw) as writer:
        for number in ids:
            writer.write({"tokens": np.full(width, number, np.uint16)})


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
        packed = {"size": 1000, "compression": "zstd", "hashes": ["xxh64"]}
        write(HERE / "packed" / name, range(first, first + size), encoding="ndarray:uint16:32", **packed)
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
                dump(f"states/{name}.json", state, indent=None)
            state = previous.stored(f"states/{case.state_of or name}.json")
            found["after"], found["explained"] = previous.resumed(case, state, where)
            dump(f"rows/{name}.json", found)
            if where is not None:
                (HERE / "logs").mkdir(exist_ok=True)
                text = re.sub(r'"time":[\d.]+', '"time":0', (where / "mixture.jsonl").read_text())
                (HERE / "logs" / f"{name}.jsonl").write_text(text)


def make_small() -> None:
    """Write validation rows, orders of probes and the numbering of samples."""
    import test_previous_version

    orders = (("web", "code", "law"), ("law", "web", "code"))
    rows = {}
    for names in orders:
        rows[" ".join(names)] = [
            [{"rows": 5, "batch_size": 4}, previous.validation(names, rows=5, batch_size=4)],
            [{"rows": 6, "seed": 7}, previous.validation(names, rows=6, seed=7)],
        ]
    dump("validation.json", rows, indent=None)
    numbers = {" ".join(names): previous.tables(previous.dataset_of(previous.Case(names=names))) for names in orders}
    dump("probes.json", test_previous_version.probe_orders(), indent=None)
    dump("shares.json", {" ".join(names): test_previous_version.shares(names) for names in orders}, indent=None)
    dump("tables.json", numbers, indent=None)


def make_replays() -> None:
    """Replay the logs."""
    import test_previous_version

    replays = {}
    for name in [name for name, case in CASES.items() if case.log]:
        mixer = ms.replay(HERE / "logs" / f"{name}.jsonl")
        replays[name] = {"repr": repr(mixer), "rows": test_previous_version.replayed(name, mixer)}
    dump("replays.json", replays, indent=None)


def make_caches() -> None:
    """Fill the caches, and kill a process that fills one."""
    import test_previous_cache as at
    from bucket_server import bucket_server
    from servers import environment

    found = {}
    with bucket_server() as server:
        settings = environment(server.url)
        for name in [name for name, value in settings.items() if value is None]:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in settings.items() if value is not None})
        at.upload(server)
        for kind, cache in at.CACHES.items():
            with tempfile.TemporaryDirectory() as directory:
                place = Path(directory)
                rows = at.read(cache, place)
                if kind == "killed":
                    place /= "killed"
                    place.mkdir()
                    kill(server, place)
                found[kind] = {"names": at.names_in(place), "rows": rows}
                (HERE / "caches" / kind).mkdir(parents=True)
                for name in found[kind]["names"]:
                    if not name.endswith("/"):
                        out = HERE / "caches" / kind / name
                        out.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(place / name.replace("mixstream-UID", f"mixstream-{os.getuid()}"), out)
    dump("caches.json", found, indent=None)


def kill(server: Any, place: Path) -> None:
    """Fill the cache at `place` in a process that is killed while it fetches a shard."""
    reached, over = threading.Event(), threading.Event()

    def odd(request: Any) -> None:
        if "web/shard.00002.mds" in request.path and request.method == "GET":
            reached.set()
            server._lock.release()  # others are answered meanwhile
            over.wait(60)
            server._lock.acquire()

    server.odd = odd
    child = subprocess.Popen([sys.executable, __file__, "victim", str(place)])
    assert reached.wait(60)
    time.sleep(0.5)
    child.kill()
    child.wait()
    over.set()
    server.odd = None
    for path in place.rglob(".mixstream-needs/*"):
        path.write_text(path.read_text().replace(str(place), "/previous"))
        path.rename(path.with_name("4194303.0badc0de"))  # a number of a process and a random one, for equal files


def make_names() -> None:
    """Write down names, signatures, helps, and what commands say of the files here."""
    import test_previous_names as at

    dump("names.json", {"reprs": at.reprs(), "surface": at.surface()}, indent=None)
    os.environ["COLUMNS"] = "400"
    (HERE / "help").mkdir(exist_ok=True)
    for command in at.COMMANDS:
        text = re.sub(r"─{40,}", "─" * 40, at.help_of(command))
        text = re.sub(r" {40,}│$", " │", text, flags=re.MULTILINE)
        (HERE / "help" / f"{command or 'mixstream'}.txt").write_text(text)
    with tempfile.TemporaryDirectory() as directory:
        dump("converted.json", at.converted(Path(directory)))
    dump("commands.json", {name: at.document_of(name) for name in at.COMMANDS_RUN}, indent=None)


def main() -> None:
    """Make what is missing."""
    if not (HERE / "library").exists():
        make_data()
    if not (HERE / "rows").exists():
        make_runs()
    make_small()
    make_replays()
    if not (HERE / "caches").exists():
        make_caches()
    make_names()
    git = ["git", "log", "-1", "--format=%H", "--", "../../../mixstream", "../../../tools"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True, cwd=HERE).stdout.strip()
    versions = {"commit": commit, "python": platform.python_version()}
    dump("versions.json", versions | {"mixstream": ms.__version__, "numpy": np.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    assert PREVIOUS == HERE
    if sys.argv[1:2] == ["victim"]:
        import test_previous_cache as at

        at.read(at.CACHES["killed"], Path(sys.argv[2]))
    else:
        main()
