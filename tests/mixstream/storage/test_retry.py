"""Retry: what is tried again and how often, how long it waits, and what the error says."""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_time import OwnTime

from mixstream.errors import (
    ConfigError,
    StoreAccessError,
    StoreBusyError,
    StoreChangedError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.storage.retry import Retry

QUICK: dict[str, Any] = {"unit": 0.001, "timeout": 5.0}


class Script:
    """Raises what it is told, one after the other, then returns "done"."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@settings(max_examples=60)
@given(attempts=st.integers(0, 5), faults=st.integers(0, 6))
def test_a_fault_is_tried_again_up_to_the_attempts_and_no_more(attempts, faults):
    errors = [StoreFaultError(f"reset {i}") for i in range(faults)]
    act, allowed = Script(*errors), max(1, attempts)
    retry = Retry(attempts=attempts, timeout=5, unit=1e-6)
    if faults < allowed:
        assert retry.call("reading x", act) == "done"
        assert act.calls == faults + 1
    else:
        with pytest.raises(StoreFaultError) as caught:
            retry.call("reading x", act)
        assert caught.value is errors[allowed - 1]
        assert act.calls == allowed


@settings(max_examples=40)
@given(mix=st.lists(st.sampled_from([StoreBusyError, StoreFaultError]), max_size=12))
def test_being_asked_to_slow_down_uses_up_no_attempts(mix):
    act = Script(*[kind("no") for kind in mix])
    retry = Retry(attempts=mix.count(StoreFaultError) + 1, timeout=30, unit=1e-6)
    assert retry.call("reading x", act) == "done"
    assert act.calls == len(mix) + 1


def test_a_store_that_stays_busy_is_asked_until_the_timeout_has_passed():
    calls = 0

    def act() -> None:
        nonlocal calls
        calls += 1
        raise StoreBusyError("503")

    began = time.monotonic()
    with OwnTime() as clock, pytest.raises(StoreBusyError) as caught:
        Retry(attempts=1, timeout=0.3, unit=0.01).call("reading x", act)
    assert time.monotonic() - began >= 0.3
    assert clock.seconds < 3
    assert 4 <= calls <= 9  # 10, 20, 40, 80 ms apart and so on, and once more when time is up
    assert "download_timeout" in caught.value.__notes__[0]


def test_after_a_fault_a_store_may_ask_for_a_full_wait_again(monkeypatch):
    """It was down in between: what it asked for before has no bearing on how long it needs now."""
    now, script = 90.0, [(100.0, StoreBusyError), (109.0, StoreFaultError), (112.0, StoreBusyError), (121.0, None)]

    def act() -> str:
        nonlocal now
        now, kind = script.pop(0)
        if kind is not None:
            raise kind("no")
        return "done"

    monkeypatch.setattr("mixstream.storage.retry.time.monotonic", lambda: now)
    retry = Retry(attempts=5, timeout=10.0, unit=1e-6)
    assert retry.call("reading x", act) == "done"
    now, before = 90.0, [(100.0, StoreBusyError), (109.0, StoreFaultError)]
    script[:] = [*before, (112.0, StoreBusyError), (122.5, StoreBusyError)]
    with pytest.raises(StoreBusyError):
        retry.call("reading x", act)
    assert script == []


@pytest.mark.parametrize("kind", [StoreError, StoreNotFoundError, StoreChangedError])
def test_other_errors_are_final_at_once(kind):
    act = Script(kind("no"))
    with pytest.raises(kind):
        Retry(attempts=5, **QUICK).call("reading x", act, renew=lambda: None)
    assert act.calls == 1


def test_what_is_no_store_error_passes_as_it_is():
    error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space") as caught:
        Retry(attempts=5, **QUICK).call("reading x", Script(error))
    assert caught.value is error
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("attempts", [1, 4])
def test_refused_credentials_are_read_anew_once_whatever_the_attempts(attempts):
    renewed = []
    retry = Retry(attempts=attempts, **QUICK)
    act = Script(StoreAccessError("expired"))
    assert retry.call("reading x", act, renew=lambda: renewed.append(1)) == "done"
    assert (act.calls, renewed) == (2, [1])
    act = Script(StoreAccessError("expired"), StoreAccessError("still"), StoreAccessError("still"))
    with pytest.raises(StoreAccessError, match="still") as caught:
        retry.call("reading x", act, renew=lambda: renewed.append(1))
    assert (act.calls, renewed) == (2, [1, 1])
    assert "credentials" in caught.value.__notes__[0]


def test_without_a_way_to_renew_a_refusal_is_final():
    act = Script(StoreAccessError("expired"))
    with pytest.raises(StoreAccessError):
        Retry(attempts=4, **QUICK).call("reading x", act)
    assert act.calls == 1


def test_a_failing_renewal_leaves_the_refusal_and_says_why():
    def renew() -> None:
        raise StoreError("no profile named 'research'")

    refused = StoreAccessError("403")
    with pytest.raises(StoreAccessError) as caught:
        Retry(**QUICK).call("reading x", Script(refused), renew=renew)
    assert caught.value is refused
    assert "no profile named 'research'" in caught.value.__notes__[0]


def test_the_note_names_what_attempts_seconds_and_the_knobs():
    with pytest.raises(StoreFaultError, match="reset") as caught:
        Retry(attempts=3, **QUICK).call("reading s3://b/x", Script(*[StoreFaultError("reset") for _ in range(3)]))
    assert str(caught.value) == "reset"
    (note,) = caught.value.__notes__
    assert note.startswith("while reading s3://b/x: 3 attempts in 0.")
    assert "`download_retry` (now 3)" in note
    assert "`download_timeout` (now 5 s per request)" in note


def test_pauses_double_and_are_bounded():
    retry = Retry(unit=2.0)
    for number, units in zip(itertools.count(), [1, 2, 4, 8, 16, 32, 32, 32]):
        assert 2 * units <= retry.pause(number) <= 2 * (units + 0.5)
    assert len({retry.pause(0) for _ in range(8)}) > 1
    assert retry.pause(10**9) <= 65


def test_stop_ends_a_pause_at_once():
    stop = threading.Event()
    act = Script(StoreFaultError("reset"))
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoreFaultError):
        Retry(attempts=9, unit=60.0).call("reading x", act, stop=stop)
    assert time.monotonic() - began < 10
    assert act.calls == 1


@pytest.mark.parametrize(
    "wrong", [{"attempts": -1}, {"timeout": 0}, {"timeout": -3.0}, {"timeout": float("inf")}, {"timeout": 1e10}]
)
def test_values_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="download_"):
        Retry(**wrong)


def test_it_survives_pickling_and_knows_its_longest():
    retry = Retry(attempts=3, timeout=7.0)
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert retry.longest > 3 * 7 + 1.5 + 2.5
