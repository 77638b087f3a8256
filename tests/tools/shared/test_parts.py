"""The options of parts, and the runner: the same results from every engine, also when a worker is killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from cyclopts import App

from mixstream.errors import ConfigError
from mixstream_tools.cli import main
from mixstream_tools.shared.console import Console
from mixstream_tools.shared.parts import PartOptions, parse_part, run_parts

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


def test_a_part_is_parsed() -> None:
    assert parse_part("3/64") == (3, 64)
    assert parse_part("0/1") == (0, 1)
    assert PartOptions(part="3/64").single == (3, 64)
    assert PartOptions(part="3/64").todo(64) == [(3, 64)]
    assert PartOptions(parts=2).todo(2) == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"part": "3"}, "--part 3: give I/N"),
        ({"part": "-1/4"}, "--part -1/4: give I/N"),
        ({"part": "4/4"}, "the last of 4 is 3/4"),
        ({"part": "0/0"}, "N must be 1 to 4,096"),
        ({"part": "0/5000"}, "N must be 1 to 4,096"),
        ({"parts": 0}, "--parts 0: give 1 or more"),
        ({"parts": 5000}, "at most 4,096"),
        ({"workers": 0}, "--workers 0: give 1 or more"),
        ({"part": "1/4", "parts": 4}, "--part 1/4 and --parts 4 contradict"),
        ({"part": "1/4", "workers": 2}, "leave out --workers 2"),
        ({"part": "1/4", "engine": "ray"}, "leave out --engine ray"),
        ({"ray_address": "head:6379"}, "is for --engine ray"),
    ],
)
def test_wrong_options_are_refused(options, told) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        PartOptions(**options)


def test_the_number_of_parts_depends_on_rows_and_not_on_the_machine() -> None:
    assert [PartOptions().count(rows, per_part=100) for rows in (0, 1, 100, 101, 10**9)] == [1, 1, 1, 2, 4096]
    assert PartOptions(workers=7).count(1000, per_part=100) == PartOptions(workers=1).count(1000, per_part=100)
    assert [PartOptions().count(rows, per_part=100, least=10) for rows in (0, 19, 50, 160, 10**4)] == [1, 1, 5, 16, 100]
    assert PartOptions(parts=3).count(10**9, per_part=1) == 3
    assert PartOptions(part="1/5").count(10**9, per_part=1) == 5


def test_little_work_starts_no_processes() -> None:
    assert PartOptions().placed(tasks=8, rows=99, few=100).workers == 1
    assert PartOptions().placed(tasks=1, rows=10**9, few=100).workers == 1
    for options in (PartOptions(workers=3), PartOptions(engine="ray"), PartOptions(part="1/5")):
        assert options.placed(tasks=8, rows=99, few=100) == options
    assert PartOptions().placed(tasks=8, rows=100, few=100) == PartOptions()


def test_they_are_options_of_a_command() -> None:
    seen = []
    app = App(result_action="return_value")

    @app.default
    def command(url: str, *, parts: PartOptions = PartOptions()) -> None:  # noqa: B008  # frozen
        seen.append((url, parts))

    app(["web", "--parts", "8", "--workers", "2"], exit_on_error=False)
    app(["web", "--part", "3/64"], exit_on_error=False)
    app(["web"], exit_on_error=False)
    assert seen == [("web", PartOptions(parts=8, workers=2)), ("web", PartOptions(part="3/64")), ("web", PartOptions())]
    with pytest.raises(ConfigError, match="give I/N"):
        app(["web", "--part", "x"], exit_on_error=False)


def _square(task: int, advance) -> tuple[int, int]:
    advance(task)
    return task * task, os.getpid()


@pytest.mark.parametrize("options", [PartOptions(workers=1), PartOptions(part="0/4")])
def test_one_worker_is_this_process(options) -> None:
    results = list(run_parts(_square, [1, 2, 3], options=options, console=Console(quiet=True), label="try"))
    assert results == [(1, os.getpid()), (4, os.getpid()), (9, os.getpid())]


def test_progress_counts_rows_or_tasks(capsys) -> None:
    console = Console(interval_s=0.0)
    common = {"options": PartOptions(workers=1), "console": console, "label": "embed"}
    list(run_parts(_square, [1000, 500], total=2000, done=500, **common))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "embed: 75 %, 1,500 of 2,000 rows"
    assert lines[1].startswith("embed: 100 %, 2,000 of 2,000 rows, ")
    list(run_parts(_square, [1, 2], **common))
    assert capsys.readouterr().err.splitlines()[-1].startswith("embed: 100 %, 2 of 2 parts, ")


def test_ray_that_is_not_installed_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--engine ray: .*pip install ray"):
        list(run_parts(_square, [1], options=PartOptions(engine="ray"), console=Console(quiet=True), label="try"))


@needs_ray
@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_ray_address_that_does_not_answer_is_named(form) -> None:
    with socket.socket() as taken:  # bound but not listening: it refuses
        taken.bind(("127.0.0.1", 0))
        options = PartOptions(engine="ray", ray_address=form.format(taken.getsockname()[1]))
        with pytest.raises(ConfigError, match=r"--ray-address .*: nothing answers at 127\.0\.0\.1 port"):
            list(run_parts(_square, [1], options=options, console=Console(quiet=True), label="try"))


# The driver is a process of its own, since Ray changes signal handlers and threads of the process that it is used in.
DRIVER = """
import json, os, re, signal, sys, threading, time
from pathlib import Path
from mixstream_tools.cli import main
from mixstream_tools.shared.console import Console
from mixstream_tools.shared.parts import PartOptions, run_parts
from ray_tasks import fail, record

def run(function, tasks, **options):
    console = Console(interval_s=0.0)
    return sorted(run_parts(function, tasks, options=PartOptions(**options), console=console, label="try", total=8))

def two_nodes(out):
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        tasks = [(at, out) for at in range(2)]
        results = run(record, tasks, engine="ray", ray_address=cluster.address)
        with PartOptions(engine="ray", ray_address=cluster.address).executor(2) as kept:
            again = [(sorted(kept.run(record, tasks, print)), ray.is_initialized()) for _ in range(2)]
        assert again == [(results, True)] * 2 and not ray.is_initialized()
        try:
            run(fail, [1, 2, 3], engine="ray", ray_address=cluster.address)
        except NotADirectoryError as error:
            return results, [str(error), *error.__notes__]
    finally:
        cluster.shutdown()

def convert_and_kill(source, out):
    # the first worker that has begun to write is killed
    def kill():
        while True:
            for path in Path(out).glob("*/*/part-*/.mixstream-writer.lock"):
                try:
                    found = re.match(r"process (\\d+) on ", path.read_text())
                except OSError:
                    continue
                if found:
                    os.kill(int(found[1]), signal.SIGKILL)
                    return killed.append(path.parent.name)
            time.sleep(0.001)

    killed = []
    threading.Thread(target=kill, daemon=True).start()
    status = main(["convert", source, "--out", out, "--seq-len", "64", "--engine", "ray"])
    return status, killed

def ray_twice(out, source):
    with PartOptions(engine="ray", workers=2).executor(8):  # one start for both
        results = run(record, [(at, out) for at in range(8)], engine="ray", workers=2)
        return results, *convert_and_kill(source, f"{out}/converted")

if __name__ == "__main__":
    engine, out, source = sys.argv[1:]
    Path(out).mkdir(exist_ok=True)
    if engine == "ray":
        print(json.dumps(ray_twice(out, source)))
    elif engine == "nodes":
        print(json.dumps(two_nodes(out)))
    else:
        print(json.dumps(run(record, [(at, out) for at in range(8)], engine=engine, workers=2)))
"""
TASKS = """
import os, signal
from pathlib import Path

def record(task, advance):
    number, out = task
    advance(1)
    (Path(out) / f"try{number}.{os.getpid()}").touch()
    if number == 3 and len(list(Path(out).glob("try3.*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    partial, final = Path(out) / f"{number}.{os.getpid()}.partial", Path(out) / f"{number}.txt"
    partial.write_text(str(number * number))
    partial.rename(final)
    return number, number * number

def fail(task, advance):
    error = NotADirectoryError("as it was")
    error.add_note("with its notes")
    raise error
"""
MARK = "MIXSTREAM_TEST_OF_PARTS"


def _drive(directory: Path, engine: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    (directory / "ray_tasks.py").write_text(TASKS)
    (directory / "driver.py").write_text(DRIVER)
    out = directory / engine
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_AUTH_MODE"] = "disabled"  # or Ray writes a token to the home directory
    environment[MARK] = str(directory)  # every process that the driver starts inherits it
    command = [sys.executable, "-W", "error", str(directory / "driver.py"), engine, str(out), "src"]
    options = {"env": environment, "cwd": directory, "timeout": 120}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return ran, out


def _left_behind(directory: Path) -> list[str]:
    """Wait some seconds for all processes of a driver to end; return the command lines of those that do not."""
    mark = f"{MARK}={directory}\0".encode()
    until = time.monotonic() + 10
    while True:
        left = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    left.append((path.parent / "cmdline").read_text())
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.1)


@needs_ray
def test_ray_repeats_the_task_of_a_killed_worker_and_leaves_no_process(tmp_path, write_tree, snapshot) -> None:
    """Also that of convert, whose bytes are those of this machine alone: starting Ray takes seconds, so it is once."""
    line = json.dumps({"text": "word " * 400}) + "\n"
    source = write_tree({f"{name}/lines.jsonl": line * 1200 for name in ("web", "code")})
    ran, out = _drive(tmp_path, "ray")
    assert ran.returncode == 0, ran.stderr
    results, status, killed = json.loads(ran.stdout.splitlines()[-1])
    assert (status, killed) == (0, ["part-00000"])
    assert main(["convert", str(source), "--out", str(tmp_path / "alone"), "--seq-len", "64", "--workers", "1"]) == 0
    assert snapshot(out / "converted") == snapshot(tmp_path / "alone")
    assert results == [[at, at * at] for at in range(8)]
    assert [(out / f"{at}.txt").read_text() for at in range(8)] == [str(at * at) for at in range(8)]
    assert len(list(out.glob("try3.*"))) == 2, "the task whose worker was killed ran again in another process"
    assert "try: 100 %, 8 of 8 rows" in ran.stderr
    assert not _left_behind(tmp_path)


@needs_ray
def test_ray_connects_to_a_cluster_of_two_nodes_and_raises_errors_as_they_were(tmp_path) -> None:
    ran, out = _drive(tmp_path, "nodes")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == [[[0, 0], [1, 1]], ["as it was", "with its notes"]]
    assert (out / "1.txt").read_text() == "1"
    assert not _left_behind(tmp_path)


def test_the_local_engine_names_the_task_of_a_killed_worker_and_goes_on_when_run_again(tmp_path) -> None:
    ran, _ = _drive(tmp_path, "local")
    assert ran.returncode == 1
    assert f"ended by signal {signal.SIGKILL:d}" in ran.stderr
    assert re.search(r"while it did \(3, ", ran.stderr)
    ran, _ = _drive(tmp_path, "local")  # the marker of the first attempt is there: nothing is killed
    assert json.loads(ran.stdout.splitlines()[-1]) == [[at, at * at] for at in range(8)]
    assert not _left_behind(tmp_path)


def _end_at_two(task: int, advance: object) -> int:
    if task == 2:
        raise KeyboardInterrupt
    return task


def test_an_interrupted_command_says_how_many_parts_are_kept() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        list(
            run_parts(
                _end_at_two, [0, 1, 2, 3], options=PartOptions(workers=1), console=Console(quiet=True), label="try"
            )
        )
    assert caught.value.__notes__ == [
        "2 of 4 parts came to their end in this run; what they wrote is kept: the same command goes on from there."
    ]
