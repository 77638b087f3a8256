"""Jobs in order beside the trainer's thread, and their errors."""

from __future__ import annotations

import threading

import pytest

from mixstream.errors import WaitTimeoutError
from mixstream.feedback.background import Background


def failing() -> None:
    raise ZeroDivisionError("of its own")


def test_jobs_run_in_order_and_a_later_job_starts_the_thread_again():
    done: list[int] = []
    background = Background(name="test")
    for number in range(5):
        background.submit(lambda number=number: done.append(number))
    background.close()
    assert done == [0, 1, 2, 3, 4]
    background.submit(lambda: done.append(5))
    background.drain(what="the job")
    assert done[-1] == 5
    background.close()
    background.close()


def test_the_first_error_ends_the_work_and_every_call_raises_it():
    background = Background(name="test")
    background.submit(failing)
    for call in (lambda: background.drain(what="the job"), background.check, lambda: background.submit(failing)):
        with pytest.raises(ZeroDivisionError) as caught:
            call()
        assert caught.traceback[-1].name == "failing"
    background.close()  # raised before


def test_closing_raises_an_error_that_no_call_has_raised():
    background = Background(name="test")
    background.submit(failing)
    with pytest.raises(ZeroDivisionError):
        background.close()


def test_no_wait_is_unbounded():
    release = threading.Event()
    background = Background(name="test", timeout=0.05)
    background.submit(lambda: release.wait(30) and None)
    with pytest.raises(WaitTimeoutError, match=r"the weights did not come in 0.05 s"):
        background.wait(lambda: False, what="the weights")
    with pytest.warns(UserWarning, match=r"test: not done after 0.05 s, and left behind"):
        background.close(timeout=0.05)
    release.set()
    background.drain(what="the job")
