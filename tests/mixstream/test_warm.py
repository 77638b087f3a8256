"""`warm.py`: its programs are to their callers what the interpreter is."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from children import gone, in_child, loaded

TELL = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['WORD'], __name__, sys.stdin.read())"


@pytest.fixture
def call(warm_programs: Path, tmp_path: Path):
    def call(*words: str, program: Path = warm_programs / "python", **options: Any) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "WORD": "said"}
        return subprocess.run(
            [program, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60, **options
        )

    return call


def test_arguments_directory_environment_and_streams_are_the_callers(call, tmp_path):
    (tmp_path / "tell.py").write_text(TELL)
    for words in (("-c", TELL), ("-u", "tell.py"), ("-m", "tell")):
        found, real = (call(*words, "a", "b", input="in", **each) for each in ({}, {"program": sys.executable}))
        assert found.stdout == real.stdout == f"['a', 'b'] {tmp_path} said __main__ in\n"


def test_nothing_of_ours_is_imported_before(call):
    said = call("-c", "import sys; print({name.partition('.')[0] for name in sys.modules} & {'mixstream', 'obstore'})")
    assert said.stdout == "set()\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("raise SystemExit", 0),
        ("raise SystemExit('why')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getppid(), 0); signal.raise_signal(15)", -signal.SIGTERM),
    ],
)
def test_its_end_is_the_callers(call, code, status):
    assert call("-c", code).returncode == status


def test_what_runs_at_exit_runs_and_what_is_written_last_arrives(call, tmp_path):
    code = (
        "file = open('left-open', 'w'); file.write('all of it')\n"
        "import atexit, threading, time\n"
        "atexit.register(print, 'at exit')\n"
        "threading.Thread(target=lambda: time.sleep(0.05) or print('a thread')).start()\n"
        "raise SystemExit('why')"
    )
    found, real = (call("-c", code, **each) for each in ({}, {"program": sys.executable}))
    assert (found.stdout, found.stderr) == (real.stdout, real.stderr) == ("a thread\nat exit\n", "why\n")
    (tmp_path / "left-open").unlink()
    call("-c", code)
    assert (tmp_path / "left-open").read_text() == "all of it"


def test_warnings_are_errors_where_they_are_asked_to_be(call):
    code = "import warnings; warnings.warn('old')"
    assert call("-c", code).returncode == 0
    assert "UserWarning: old" in call("-W", "error", "-c", code).stderr


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGKILL, False)])
def test_signals_reach_it(warm_programs, number, ends):
    code = "import os, time\ntry: print(os.getpid(), flush=True); time.sleep(60)\nexcept BaseException: print('ended')"
    command = [warm_programs / "python", "-c", f"import signal; signal.signal(15, signal.default_int_handler)\n{code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.send_signal(number)
        assert run.communicate(timeout=60)[0] == ("ended\n" if ends else "")  # at once: no program holds the pipe
    assert run.returncode == (0 if ends else -number)
    assert gone(pid)


def test_files_that_are_passed_have_their_numbers(warm_programs, tmp_path):
    (tmp_path / "file").write_text("passed")
    with (tmp_path / "file").open() as file:
        code = f"import os, sys; print(os.read({file.fileno()}, 9), os.listdir('/proc/self/fd'))"
        said = [
            subprocess.run([program, "-c", code], pass_fds=[file.fileno()], capture_output=True, check=True).stdout
            for program in (warm_programs / "python", sys.executable)
            if not file.seek(0)
        ]
    assert said[0] == said[1]


def test_spawned_processes_start_by_it(warm_spawn):
    assert in_child(loaded, method="spawn") == (True, True)
    assert in_child(loaded, method="forkserver") == (True, True)


def test_torchrun_starts_its_ranks_by_it(call, warm_programs, tmp_path):
    (tmp_path / "rank.py").write_text("import os, sys; print(os.environ['RANK'], 'torch' in sys.modules)")
    done = call("--standalone", "--nproc-per-node", "2", "rank.py", program=warm_programs / "torchrun")
    assert sorted(done.stdout.splitlines()) == ["0 True", "1 True"], done.stderr
