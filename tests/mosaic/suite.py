"""make test-mosaic-suite SUITE=...: run mosaicml-streaming's own tests through `mixstream.compat`, and count.

    git clone --branch v0.13.0 https://github.com/mosaicml/streaming /somewhere
    make test-mosaic-suite SUITE=/somewhere

Each file of its tests runs twice, in a copy outside of this repository: against the package itself, and below
`python -m mixstream.compat`, both in the environment `.venv-mosaic-suite`. Printed are, file by file, the cases that
pass against the package itself, how many of these pass through us, and both again without the cases that use a private
name (their source, or that of helpers and fixtures in their file, has one; through us, an imported one is None).
`--list` prints those that pass there only. A file whose run does not end within `--limit`, or has no case, ends the
count with an error: half a run would be counted as differences.

Left out: what needs Spark or the network, and the two files about shared memory, which mixstream has not.
"""

import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LEFT_OUT = {
    "test_barrier.py": "barriers in shared memory",
    "test_shared.py": "arrays in shared memory",
    "test_streaming_remote.py": "needs the network",
}
PRIVATE = re.compile(r"(?<![\w.])_[a-z]\w+\b|\._(?!_)[a-zA-Z]\w*")
PRIVATE_IMPORT = re.compile(r"^from streaming[.\w]* import (_\w+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run of one file: case -> `passed`, or the first line of its error."""

    cases: dict[str, str]

    @property
    def passed(self) -> set[str]:
        return {case for case, how in self.cases.items() if how == "passed"}


def run_file(file: str, copy: Path, *, python: str, through: tuple[str, ...], limit: float) -> Outcome:
    """Run a file of tests, for `limit` seconds at most; `through` is what stands between the interpreter and pytest."""
    with tempfile.TemporaryDirectory(prefix="suite-") as scratch:
        report = Path(scratch) / "report.xml"
        command = [python, *through, "-m", "pytest", f"tests/{file}", "-c", os.devnull, f"--rootdir={copy}"]
        command += ["-p", "no:cacheprovider", "-q", "-W", "ignore", "-m", "not daily and not remote", "--timeout=240"]
        paths = [str(HERE / "stubs"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        variables = {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": scratch}
        variables |= {"AWS_EC2_METADATA_DISABLED": "true"}  # else boto3 waits for a service of Amazon's machines
        variables |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}  # parameters that are sets have one order then
        with subprocess.Popen(
            [*command, f"--junitxml={report}"],
            cwd=copy,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its workers too, which hold the pipe open
                process.communicate()
                sys.exit(f"{file}: its run did not end within {limit:g} s; raise --limit")
        cases = read_report(report) if report.exists() else {}
        if not cases:
            sys.exit(f"{file}: no case was run, {' '.join(command[:4])} said:\n{output[-3000:]}")
        cases = {re.sub(re.escape(scratch) + r"/\w+", "TEMPORARY", case): how for case, how in cases.items()}
        return Outcome(cases=cases)


def read_report(path: Path) -> dict[str, str]:
    """Return how each case of a JUnit report ended; a case that fails in its teardown has failed."""
    ended: dict[str, str] = {}
    for case in ET.parse(path).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        how = "passed"
        if bad:
            message = (bad[0].get("message") or bad[0].tag).strip()
            how = "skipped" if bad[0].tag == "skipped" else (message.splitlines() or [bad[0].tag])[0]
        if ended.get(name, "passed") == "passed":
            ended[name] = how
    return ended


def private_names(path: Path) -> dict[str, set[str]]:
    """Return, for each test function of a file, the private names that it and its helpers use."""
    source = path.read_text()
    tree = ast.parse(source)
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streaming")
        for alias in node.names
        if alias.name.startswith("_")
    }
    lines = source.splitlines()
    own = {}
    for name, node in functions.items():
        begin = min(part.lineno for part in [node, *node.decorator_list])
        own[name] = {found.lstrip(".") for found in PRIVATE.findall("\n".join(lines[begin - 1 : node.end_lineno]))}
    used: dict[str, set[str]] = {}
    for name, node in functions.items():
        called = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} | {a.arg for a in node.args.args}
        below = [name, *sorted(called & functions.keys())]
        found = set().union(*(own[part] for part in below))
        used[name] = {one for one in found if one in imported or f"._{one[1:]}" in source}
    return used


def base_name(case: str) -> str:
    return case.rpartition("::")[2].partition("[")[0]


def main() -> int:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of mosaicml-streaming v0.13.0")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has both packages")
    parser.add_argument("--order", default="mosaic", help="default order of the aliased dataset")
    parser.add_argument("--only", nargs="*", default=[], help="files of tests, as test_writer.py")
    parser.add_argument("--base", type=Path, help="JSON file that keeps the run against the package itself")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for a run of one file")
    parser.add_argument("--list", action="store_true", help="print each case that passes there and fails here")
    given = parser.parse_args()
    kept = json.loads(given.base.read_text()) if given.base and given.base.exists() else {}
    through = ("-m", "mixstream.compat", "--order", given.order)
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mosaic-suite-") as scratch:
        copy = Path(scratch) / "checkout"
        shutil.copytree(given.checkout / "tests", copy / "tests")  # without `streaming/`, which would hide both
        edited = Path(scratch) / "edited"
        shutil.copytree(copy / "tests", edited / "tests")
        for path in (edited / "tests").glob("test_*.py"):  # so that the other cases of the file run
            path.write_text(PRIVATE_IMPORT.sub(r"\1 = None", path.read_text()))
        files = sorted(path.name for path in (copy / "tests").glob("test_*.py") if path.name not in LEFT_OUT)
        say(f"{'file':28} {'there':>6} {'here':>6} {'public, there':>14} {'public, here':>13}")
        for file in [file for file in files if not given.only or file in given.only]:
            if file not in kept:
                kept[file] = run_file(file, copy, python=given.python, through=(), limit=given.limit).cases
                if given.base:
                    given.base.write_text(json.dumps(kept, indent=0))
            there = {case for case, how in kept[file].items() if how == "passed"}
            here = run_file(file, edited, python=given.python, through=through, limit=given.limit)
            private = private_names(copy / "tests" / file)
            public = {case for case in there if not private.get(base_name(case))}
            counts = {
                "there": len(there),
                "here": len(there & here.passed),
                "public, there": len(public),
                "public, here": len(public & here.passed),
            }
            totals.update(counts)
            say(f"{file:28} " + row(counts))
            if given.list:
                for case in sorted(there - here.passed):
                    names = ", ".join(sorted(private.get(base_name(case)) or ()))
                    how = here.cases.get(case, "not run")
                    say(f"    {case}  {f'[private: {names}] ' if names else ''}{how[:200]}")
    say(f"{'all':28} " + row(totals))
    return 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def row(counts: dict[str, int]) -> str:
    share = counts["public, here"] / max(counts["public, there"], 1)
    return (
        f"{counts['there']:6} {counts['here']:6} {counts['public, there']:14} {counts['public, here']:13}  {share:7.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
