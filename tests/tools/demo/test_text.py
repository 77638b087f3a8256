"""The demo's text: limited, each document once, and what happens if there is too little."""

import json

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.demo import text as demo_text
from mixstream_tools.demo.text import Domain, gather


def domain(name: str, texts: list[str], limit: int = 1 << 20) -> Domain:
    return Domain(name=name, about="made up", limit=limit, documents=lambda: texts)


def test_text_is_limited_and_each_document_taken_once(tmp_path, monkeypatch):
    texts = ["a" * 70_000, "a" * 70_000, "half of a pair \ud800", "  \n", "x" * (1 << 20), "b" * 20_000, "c" * 20_000]
    monkeypatch.setattr(demo_text, "DOMAINS", (domain("one", texts, limit=100_000), domain("two", ["d" * 70_000])))
    found = gather(tmp_path)
    taken = [json.loads(row)["text"][0] for row in found.files["one"].read_text().splitlines()]
    assert taken == ["a", "b"]


def test_domains_with_too_little_text_are_left_out_with_a_word(tmp_path, monkeypatch):
    several = (domain("one", ["a" * 70_000]), domain("two", ["b" * 70_000]), domain("none", []))
    monkeypatch.setattr(demo_text, "DOMAINS", several)
    found = gather(tmp_path)
    assert list(found.files) == ["one", "two"]
    assert "0 B here" in found.left_out["none"]


def test_one_domain_is_no_mixture(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_text, "DOMAINS", (domain("one", ["a" * 70_000]), domain("none", [])))
    with pytest.raises(ConfigError, match="1 can be found here") as failure:
        gather(tmp_path)
    assert any("none" in note for note in failure.value.__notes__)
