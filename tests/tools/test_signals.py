"""SIGTERM and Ctrl-C: a long command says what is kept, ends with the shell's status, and goes on afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixstream_tools.cli import main


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("group", [False, True])
def test_convert_says_what_is_kept(tmp_path, capsys, warm_programs, workers, number, status, group):
    """The first domain is one small part, and the second takes long enough for the signal."""
    for name, size in (("first", 10), ("second", 800_000)):
        (tmp_path / f"{name}.txt").write_text("some text 5 " * size)
    sources = [str(tmp_path / f"{name}.txt") for name in ("first", "second")]
    arguments = ["convert", *sources, "--out", str(tmp_path / "out"), "--seq-len", "64"]
    program = str((Path(sys.executable).parent if group else warm_programs) / "mixstream")  # warm ones leave the group
    command = [program, *arguments, "--workers", str(workers), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as run:
        until = time.monotonic() + 60
        while not list((tmp_path / "out/.convert/parts").glob("*/*.json")) and run.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.002)
        (os.killpg if group else os.kill)(run.pid, number)
        out, err = run.communicate(timeout=60)
    assert run.returncode == status, err
    assert b"Finished parts are kept (1 of 2)" in err
    assert b"the same command goes on from there" in err
    assert b"Traceback" not in err
    told = json.loads(out)
    assert told["status"] == "interrupted"
    assert main([*arguments, "--workers", "1"]) == 0
    assert "going on: 1 of 2 parts are done" in capsys.readouterr().err


IN_A_DESTRUCTOR = """
import os, sys, time
from mixstream_tools import cli

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))

def command(arguments, **options):
    Dropped()
    time.sleep(60)

cli._app = lambda arguments: command
cli.run()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_destructor_is_not_lost(number, status):
    """Python drops its exception there, and the command went on to its end."""
    done = subprocess.run([sys.executable, "-c", IN_A_DESTRUCTOR, str(int(number))], capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    assert b"Exception ignored" not in done.stderr
