"""Run a program that imports `streaming` on mixstream, without a change to it.

    python -m mixstream.compat train.py --its --arguments
    python -m mixstream.compat -m package.module --its --arguments
    torchrun --nproc-per-node 8 -m mixstream.compat train.py --its --arguments

The interpreter starts again with `mixstream/compat/path` first on PYTHONPATH, so every Python process that the program
starts, by whatever launcher, finds the same. `python -m mixstream.compat --path` prints that directory, for launchers
that are no Python modules: `PYTHONPATH=$(python -m mixstream.compat --path) composer train.py`.
"""

import argparse
import os
import subprocess
import sys

from mixstream.compat.alias import _ORDER, DIRECTORY, ORDERS


def main() -> None:
    """Read the options, then become the program."""
    parser = argparse.ArgumentParser(
        prog="python -m mixstream.compat",
        description="Run a program that imports `streaming` (mosaicml-streaming) on mixstream, unchanged.",
        usage="%(prog)s [--order mosaic|mixstream] (program.py | -m module) [arguments] | --path",
    )
    parser.add_argument("--order", choices=ORDERS, help="default order of StreamingDataset (mosaic)")
    parser.add_argument("--path", action="store_true", help="print the directory to put on PYTHONPATH, and end")
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.path:
        sys.stdout.write(f"{DIRECTORY}\n")
        return
    if not given.program:
        parser.error("name a program, or -m and a module")
    paths = [DIRECTORY, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if given.order is not None:
        os.environ[_ORDER] = given.order
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] - -W, -X and the like
    command = [sys.executable, *flags, *(["-m"] if given.module else []), *given.program]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - the interpreter that runs this


if __name__ == "__main__":
    main()
