"""Planted passages: of one length, reproducible, and as faulty as they say."""

import json
import random
from collections import Counter

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.demo.selection.planted import COPIES, EDITS, PASSAGE, edited, fitted, passages, plant, shuffled

KINDS = ("code", "cpp", "docs", "legal", "prose")


@pytest.fixture
def files(tmp_path):
    """A little text of each kind, part of it not ASCII."""
    found = {}
    for name in KINDS:
        rng, found[name] = random.Random(name), tmp_path / f"{name}.jsonl"
        words = [f"{name}{number}é" for number in range(400)]
        texts = [" ".join(rng.choices(words, k=2000)) for _ in range(5)]
        found[name].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return found


def test_every_passage_has_the_same_number_of_bytes(files):
    planted = plant(files, rows=60, seed=0)
    every = [passage for domain in planted.values() for passage in domain]
    assert {len(passage.text.encode()) for passage in every} == {PASSAGE}
    assert Counter(passage.kind for passage in planted["noise"]) == {"characters": 20, "shuffled": 20}
    assert Counter(passage.kind for passage in planted["copies"]) == {"text": 60, "copy": 10 * COPIES}
    assert Counter(passage.kind for passage in planted["prose"])["stray"] == 1
    assert {passage.kind for name in ("code", "legal") for passage in planted[name]} == {"text"}


def test_they_depend_on_the_seed_only(files):
    assert plant(files, rows=60, seed=0) == plant(files, rows=60, seed=0) != plant(files, rows=60, seed=1)


def test_a_group_is_one_passage_and_its_copies(files):
    groups = Counter(passage.group for passage in plant(files, rows=60, seed=0)["copies"] if passage.group is not None)
    assert set(groups.values()) == {1 + COPIES}


def test_a_near_copy_differs_in_a_few_words():
    text = fitted(" ".join(f"word{number}" for number in range(200)))
    ours, theirs = text.split(" "), edited(text, random.Random(0)).split(" ")
    changed = sum(mine != other for mine, other in zip(ours, theirs))
    assert 0 < changed <= EDITS + 1  # the last word may be cut


def test_shuffled_words_are_the_same_words():
    text = fitted(" ".join(f"word{number}" for number in range(200)))
    other = shuffled(text, random.Random(0))
    assert other != text
    assert sorted(other.split(" ")) == sorted(text.split(" "))


def test_passages_are_cut_between_characters_and_come_once():
    found = passages(["é" * PASSAGE, "é" * PASSAGE, "short"], rows=10, rng=random.Random(0))
    assert found == ["é" * (PASSAGE // 2) + " "]


def test_a_kind_of_text_that_is_missing_is_named(files):
    del files["cpp"]
    with pytest.raises(ConfigError, match="'cpp' is not on this machine"):
        plant(files, rows=60, seed=0)
