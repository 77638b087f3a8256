"""Sizes as people write them."""

from __future__ import annotations

import pytest

from mixstream.errors import ConfigError
from mixstream.units import parse_bytes, parse_count


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (7, 7),
        ("900", 900),
        ("64mb", 64 << 20),
        ("1.5GB", 3 << 29),
        (" 2 kb ", 2048),
        ("2 KiB", 2048),
        ("1.5gib", 3 << 29),
        ("1,024b", 1024),
    ],
)
def test_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "count"), [(7, 7), ("100k", 10**5), ("64M", 64 * 10**6), ("77b", 77 * 10**9), ("1t", 10**12)]
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "mb", "12 parsecs", "-3kb", "1e3"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="64mb"):
        parse_bytes(text)
