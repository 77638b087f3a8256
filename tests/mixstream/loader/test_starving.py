"""What `describe()` says of a trainer that waits: the stage that starves it, and what helps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mixstream.loader.starving import Options, starving
from mixstream.loader.stats import LoaderStats
from mixstream.metering import STAGES

OPTIONS = Options(predownload=64)
FAR: dict[str, Any] = {"fetched": 40, "misses": 9, "refetched": 0, "evicted": 0, "requests": 80, "store_bytes": 1 << 30}


def text(stage: str, options: Options = OPTIONS, **numbers: Any) -> str:
    stats = LoaderStats(seconds=11.0, first=1.0, batches=50, wait=5.0, waited_for={stage: 4.0, "plan": 0.1}, **numbers)
    return "\n".join(starving(stats, options))


def test_a_trainer_that_never_waits_is_told_so():
    stats = LoaderStats(seconds=10.0, batches=50, wait=0.05, first=2.0)
    assert starving(stats, OPTIONS)[0].startswith("stages   the trainer never waited")
    assert "2.00 s for the first" in starving(stats, OPTIONS)[0]
    assert starving(replace(stats, batches=0), OPTIONS) == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_words(stage: str):
    said = text(stage)
    assert "the trainer waited 50% of the time for batches (5.00 of 10.00 s), but 1.00 s for the first" in said
    assert "meanwhile 98% " in said or "meanwhile 100% " in said


@pytest.mark.parametrize(
    ("numbers", "options", "expected"),
    [
        ({**FAR, "fetch": 9.0, "fetching": 3.0}, OPTIONS, "raise predownload=64"),
        ({**FAR, "fetch": 90.0, "fetching": 10.5}, OPTIONS, "fetching earlier does not help"),
        ({**FAR, "fetch": 9.0, "fetching": 3.0, "decompress": 12.0}, OPTIONS, "take longer to decompress"),
        (
            {**FAR, "fetch": 9.0, "fetching": 3.0, "refetched": 20, "evicted": 30},
            replace(OPTIONS, cache_limit=4711),
            "raise cache_limit=4711",
        ),
        ({**FAR, "fetch": 9.0, "fetching": 3.0, "refetched": 20}, OPTIONS, "deleted, or damaged"),
        ({"fetched": 0}, OPTIONS, "other processes are fetching"),
    ],
)
def test_what_helps_against_late_shards(numbers: dict[str, Any], options: Options, expected: str):
    said = text("shards", options, **numbers)
    assert expected in said
    assert ("raise" in expected) == ("raise" in said)


def test_the_rate_of_the_store_is_said():
    assert "from stores at 256.0 MiB/s over 3.0 requests at once" in text("shards", **FAR, fetch=12.0, fetching=4.0)


@pytest.mark.parametrize(
    ("stage", "numbers", "options", "expected"),
    [
        ("open", {}, replace(OPTIONS, hashed="xxh64"), "validate_hash='arrival'"),
        ("open", {}, OPTIONS, "larger shards"),
        ("gather", {"gather": 8.0, "cpu": 1.0}, OPTIONS, "ran for 12% of its time"),
        ("gather", {"gather": 8.0, "cpu": 7.0}, replace(OPTIONS, widen=True), "widen=False"),
        ("collate", {}, replace(OPTIONS, samples="a collate_fn is given"), "a collate_fn is given: "),
        ("collate", {"collate": 9.0}, replace(OPTIONS, workers=3), "raise num_workers=3"),
        ("weights", {}, replace(OPTIONS, lag=16), "larger lag than 16"),
        ("transform", {"transform": 5.0}, OPTIONS, "100.0 ms a batch"),
        ("copy", {}, replace(OPTIONS, widen=True), "widen=False copies fewer bytes"),
        ("plan", {}, OPTIONS, "larger batches"),
    ],
)
def test_what_helps_against_others(stage: str, numbers: dict[str, Any], options: Options, expected: str):
    assert expected in text(stage, options, **numbers)


def test_of_workers_their_own_time_is_said():
    said = text("plan", replace(OPTIONS, workers=4), shards=9.0, collate=1.0, trainer=50.0, fetched=0)
    assert "its workers spent 90% waiting for shards" in said
    assert "handing" not in said
