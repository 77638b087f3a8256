"""Processes: results, progress, and what is left when something fails. Few tests, as starting a process takes long."""

import importlib
import signal
import time
from pathlib import Path

import pytest

from mixstream_tools.shared.executors.local import InProcess, Processes, WorkerDiedError

# Workers import what they run by name: this becomes a module on the path, which spawned processes inherit.
TASKS = """
import os, signal, time
from pathlib import Path

def number(task, report):
    time.sleep(0.2)
    return os.environ.get("MIXSTREAM_WORKER"), os.getpid()

def square(task, report):
    report(1)
    return task * task, os.environ.get("GREETING"), os.getpid()

def fail_or_finish(task, report):
    kind, path = task
    if kind == "fail":
        time.sleep(0.1)
        error = NotADirectoryError("as it was")
        error.add_note("with its notes")
        raise error
    if kind == "bug":
        return 1 / 0
    time.sleep(1.0)
    Path(path).write_text("finished")

def die(task, report):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    (tmp_path / "executor_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("executor_tasks")
    monkeypatch.delitem(importlib.sys.modules, "executor_tasks")


def test_every_task_is_done_once_in_other_processes(tasks):
    seen: list[int] = []
    executor = Processes(workers=2, environ={"GREETING": "hello"})
    results = list(executor.run(tasks.square, range(20), seen.append))
    assert sorted(result for result, _, _ in results) == [at * at for at in range(20)]
    assert {greeting for _, greeting, _ in results} == {"hello"}
    assert len({process for _, _, process in results}) <= 2
    assert sum(seen) == 20


def test_a_worker_knows_its_number(tasks):
    results = set(Processes(workers=2).run(tasks.number, range(4), lambda size: None))
    assert {number for number, _ in results} == {"0", "1"}
    assert len({process for _, process in results}) == 2


def test_in_process_is_the_same_without_processes(tasks):
    seen: list[int] = []
    assert [result for result, _, _ in InProcess().run(tasks.square, range(5), seen.append)] == [0, 1, 4, 9, 16]
    assert sum(seen) == 5


def test_the_first_failure_is_raised_as_it_was_after_others_have_finished(tasks, tmp_path):
    work = [
        ("finish", str(tmp_path / "a")),
        ("fail", ""),
        *(("finish", str(tmp_path / f"never{at}")) for at in range(5)),
    ]
    with pytest.raises(NotADirectoryError, match="as it was") as caught:
        list(Processes(workers=2).run(tasks.fail_or_finish, work, lambda size: None))
    assert caught.value.__notes__ == ["with its notes"]
    assert (tmp_path / "a").read_text() == "finished"
    assert not list(tmp_path.glob("never*")), "no task is begun after the failure"


def test_a_bug_in_a_worker_shows_its_traceback(tasks):
    with pytest.raises(ZeroDivisionError) as caught:
        list(Processes(workers=2).run(tasks.fail_or_finish, [("bug", "")], lambda size: None))
    assert "return 1 / 0" in caught.value.__notes__[0]


def test_a_worker_that_is_killed_is_an_error_that_says_so(tasks):
    with pytest.raises(WorkerDiedError, match=f"by signal {signal.SIGKILL:d} .*--workers.* while it did part seven"):
        list(Processes(workers=2).run(tasks.die, ["part seven"], lambda size: None))


def test_leaving_early_ends_the_workers(tasks, tmp_path):
    class Stop(Exception):
        pass

    def stop(size: int) -> None:
        raise Stop

    running = Processes(workers=2).run(tasks.square, range(3), stop)
    start = time.monotonic()
    with pytest.raises(Stop):
        list(running)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("executor", [Processes(workers=2), InProcess()])
def test_workers_are_kept_between_runs_in_a_with_block(tasks, executor):
    with executor:
        runs = [{result[-1] for result in executor.run(tasks.number, range(4), lambda size: None)} for _ in range(2)]
    assert runs[0] == runs[1]


def test_kept_workers_end_with_the_block_and_after_a_failure(tasks, tmp_path):
    executor = Processes(workers=1)
    with executor:
        (first,) = {result[-1] for result in executor.run(tasks.square, range(2), lambda size: None)}
        with pytest.raises(ZeroDivisionError):
            list(executor.run(tasks.fail_or_finish, [("bug", "")], lambda size: None))
        (second,) = {result[-1] for result in executor.run(tasks.square, range(2), lambda size: None)}
        assert not Path(f"/proc/{first}").exists()
        assert Path(f"/proc/{second}").exists()
    assert not Path(f"/proc/{second}").exists()
