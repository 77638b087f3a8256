"""A job that writes scores and selections, killed before each thing that it does to the disk.

Started by `selection/test_crash.py` as a process of one thread, so that it can fork: `selection_crash.py ROOT`. Every
life is a forked child that dies by SIGKILL; after each, what is on disk is read as another process would read it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from artefacts import QUALITY, select, table_of, write_parts, write_scores

from mixstream.selection import Scores, ScoresWriter, Selection, add_columns, find_artefacts, merge_scores, scores_done

TABLE = table_of(5, 7, 3)
VALUES = np.arange(15, dtype="f4")
MADE = {"inputs": {"seed": 1}}
PARTS = 2
EVENTS = {"pwrite", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def live(root: Path) -> None:
    """Go on where an earlier life was killed: parts, merging, another column, a selection that replaces another."""
    path = root / "scores"
    for part in ((i, PARTS) for i in range(PARTS)):
        if not scores_done(path, part, made=MADE):
            with ScoresWriter(path, domain="web", table=TABLE, columns=[QUALITY], made=MADE, part=part) as writer:
                writer.write(writer.begin, {"quality": VALUES[writer.begin : writer.end]})
    scores = merge_scores(path)
    if "rank" not in scores.columns:
        add_columns(path, {"rank": np.arange(15)}, MADE)
    if not all(scores_done(root / "again", (i, PARTS), made=MADE) for i in range(PARTS)):
        write_parts(root / "again", TABLE, VALUES, parts=PARTS, made=MADE, overwrite=True)
    merge_scores(root / "again")
    if not is_new(root):
        select(root / "selection", TABLE, [2, 3, 14], overwrite=True)


def is_new(root: Path) -> bool:
    try:
        return Selection.open(root / "selection").ordinals().tolist() == [2, 3, 14]
    except ValueError:
        return False


def check(root: Path) -> None:
    """Whatever is visible is whole."""
    if (root / "selection/manifest.json").exists():
        selection = Selection.open(root / "selection")
        selection.verify()
        assert selection.ordinals().tolist() in ([1], [2, 3, 14])
    if (root / "again/manifest.json").exists():
        again = Scores.open(root / "again")
        again.verify()
        assert abs(again.column("quality")).tolist() == VALUES.tolist()
    if (root / "scores/manifest.json").exists():
        scores = Scores.open(root / "scores")
        scores.verify()
        assert np.array_equal(scores.column("quality"), VALUES)
        assert find_artefacts(root / "scores", "scores")
    elif all(scores_done(root / "scores", (i, PARTS), made=MADE) for i in range(PARTS)):
        Scores.open(root / "scores").verify()


def content(root: Path) -> dict[str, bytes]:
    """Return the files that readers see; what a writer keeps for itself begins with a dot."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if not path.name.startswith(".")}


def start(root: Path) -> None:
    """Write what is replaced."""
    select(root / "selection", TABLE, [1])
    write_scores(root / "again", TABLE, -VALUES, made={"inputs": {"seed": 0}})


def dies(act: Callable[[], None], number: int) -> bool:
    """Run `act` in a child that is killed before event `number`; return whether it came that far."""
    if not (child := os.fork()):
        left = number

        def count(event: str, args: Any) -> None:
            nonlocal left
            left -= event in EVENTS or (event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR)))
            if left == 0:
                left -= 1  # killing is an event too
                os.kill(os.getpid(), signal.SIGKILL)

        pwrite = os.pwrite
        os.pwrite = lambda *args: (count("pwrite", args), pwrite(*args))[1]
        sys.addaudithook(count)
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the job failed by itself"
    return os.WIFSIGNALED(status)


def main(root: Path) -> None:
    start(root / "before")
    live(Path(shutil.copytree(root / "before", root / "reference")))
    expected = content(root / "reference")
    killed = 0
    for number in range(1, 10_000):
        place = Path(shutil.copytree(root / "before", root / "job"))
        act = partial(live, place)
        if not dies(act, number):
            break
        check(place)
        if number % 5 == 0:
            dies(act, 7)  # and again, soon after the next start
            check(place)
        live(place)
        assert content(place) == expected, f"killed before event {number}"
        shutil.rmtree(place)
        killed += 1
    sys.stdout.write(f"{killed}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
