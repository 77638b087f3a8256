"""SIGTERM and Ctrl-C: a long command says what is kept, ends with the shell's status, and goes on afterwards."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = [sys.executable, "-c", "from mixstream_tools.cli import run; run()"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("group", [False, True])
def test_convert_says_what_is_kept(tmp_path, workers, number, status, group):
    (tmp_path / "web").mkdir()
    for at in range(40):
        (tmp_path / f"web/{at:02}.txt").write_text(f"some text {at} " * 80_000)
    arguments = ["convert", str(tmp_path / "web"), "--out", str(tmp_path / "out"), "--seq-len", "64"]
    command = [*PROGRAM, *arguments, "--workers", str(workers), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as run:
        until = time.monotonic() + 60
        while not list((tmp_path / "out/.convert/parts").glob("*/*.json")) and run.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.002)
        (os.killpg if group else os.kill)(run.pid, number)
        out, err = run.communicate(timeout=60)
    assert run.returncode == status, err
    assert b"Finished parts are kept (" in err
    assert b"the same command goes on from there" in err
    told = json.loads(out)
    assert told["status"] == "interrupted"
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"going on: " in done.stderr
