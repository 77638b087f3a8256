"""Everything at once: processes that share a tight cache, a store that fails at random, kill -9; every batch compared.

    python bench/soak.py [--minutes 3] [--seed 0] [--only NAME[,NAME]] [--json FILE]

Scenarios (`soaking/scenarios.py`: MDS, selections, packings, token files, other orders, trainers' faces, writers) are
drawn at random and run two at once. Each reads out of a real S3 server (SeaweedFS, loopback) behind a proxy that
resets, truncates, corrupts, stalls, throttles and refuses. Its processes share a cache that holds a third of the data.
They are killed with SIGKILL in whatever they are doing, and go on from their last state, some of them with another
number of ranks and workers. Every batch that was handed out is compared with the batch that an undisturbed reader of
the local files gets. It fails if one row differs, is missing or comes twice, if a process is stuck, or if the cache
exceeds its limit; the directory of such a scenario is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests/mixstream"
sys.path.append(str(TESTS))


def main() -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of scenarios, or patterns, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at once")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    paths = [str(Path(__file__).resolve().parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # of workers that are spawned
    from soaking.campaign import campaign

    return campaign(
        minutes=arguments.minutes,
        seed=arguments.seed,
        only=arguments.only,
        jobs=arguments.jobs,
        document=arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
