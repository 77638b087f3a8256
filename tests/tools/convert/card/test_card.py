"""The data card of convert: what it says of documents is true, whatever workers, parts, kills and later commands do."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mixstream_tools.cli import main
from mixstream_tools.convert.card.duplicates import HashCounter, Hashes, HashMerger
from mixstream_tools.convert.card.lengths import LengthCounts, bin_of, edge_of
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer
from mixstream_tools.shared.cards import read_card

TEXTS = [f"text {at % 70} " * (1 + at % 70) + "é" for at in range(100)]


CODE = {"a": "x = 1\n" * 40, "b": "y = 2\n" * 9}


def recipe(**options) -> Recipe:
    fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text", id="id"), "seq_len": 16}
    return Recipe(**{**fixed, **options})


def card_of(out):
    card = read_card((out / "card.json").read_bytes())
    return {(each.domain, each.split): each for each in card.datasets}


@pytest.fixture
def source(write_tree):
    lines = "".join(json.dumps({"text": text, "id": f"id{at}"}) + "\n" for at, text in enumerate(TEXTS))
    code = {f"code/{name}.jsonl": json.dumps({"text": text, "id": name}) for name, text in CODE.items()}
    return write_tree({"web.jsonl": lines, **code})


def test_what_it_says_is_what_the_documents_are(source, tmp_path):
    run_conversion([str(source / "web.jsonl"), str(source / "code")], out=tmp_path / "out", recipe=recipe())
    web = card_of(tmp_path / "out")["web", "train"]
    tokens = [len(text.encode()) + 1 for text in TEXTS]
    assert web.documents == len(TEXTS)
    assert web.text_bytes == sum(tokens) - len(TEXTS)
    assert web.tokens + web.dropped_tokens == sum(tokens) == sum(web.lengths.tokens)
    expected, _ = np.histogram(tokens, bins=web.lengths.edges)
    assert list(web.lengths.documents) == [*expected[:-1], expected[-1]]
    assert (web.lengths.least, web.lengths.most) == (min(tokens), max(tokens))
    low, high = web.lengths.quantiles_between["0.5"]
    assert low <= sorted(tokens)[len(tokens) // 2 - 1] < high
    again = Counter(TEXTS)
    assert web.duplicates.copies == len(TEXTS) - len(again) == 30
    assert (web.duplicates.texts, web.duplicates.exact, web.duplicates.standard_error) == (30, True, 0)
    hashes = sorted({f"{xxhash.xxh3_64_intdigest(text.encode()):016x}": text for text in TEXTS}.items())
    assert [(each.hash, each.text) for each in web.samples] == [(digits, text[:600]) for digits, text in hashes[:4]]
    first = web.samples[0]
    assert (first.file, first.id) == ("web.jsonl", f"id{TEXTS.index(hashes[0][1])}")
    assert first.characters == len(hashes[0][1])
    assert (web.options["seq-len"], web.options["tokenizer"], web.tokenizer["eos"]) == (16, web.tokenizer, 256)
    code = card_of(tmp_path / "out")["code", "train"]
    assert (code.sources.files, code.sources.formats) == (2, {"jsonl": 2})
    sizes = {path.name: path.stat().st_size for path in (source / "code").iterdir()}
    assert {each.name: each.bytes for each in code.sources.first} == sizes


def test_it_depends_on_neither_workers_nor_parts(source, tmp_path):
    for name, options, workers in (("one", {}, 1), ("two", {}, 2), ("parts", {"part_bytes": 3000}, 1)):
        made = recipe(val_fraction=0.3, **options)
        run_conversion([str(source / "web.jsonl")], out=tmp_path / name, recipe=made, workers=workers)
    assert (tmp_path / "one/card.json").read_bytes() == (tmp_path / "two/card.json").read_bytes()
    whole, parts = card_of(tmp_path / "one"), card_of(tmp_path / "parts")
    assert whole.keys() == parts.keys() == {("web", "train"), ("web", "val")}
    for key, card in whole.items():
        assert card.lengths == parts[key].lengths
        assert card.duplicates == parts[key].duplicates
        assert [each.hash for each in card.samples] == [each.hash for each in parts[key].samples]


def test_it_follows_domains_that_come_change_and_go(source, tmp_path):
    out = tmp_path / "out"
    run_conversion([str(source / "web.jsonl")], out=out, recipe=recipe())
    web = (out / "web/train/card.json").read_bytes()
    run_conversion([str(source / "code")], out=out, recipe=recipe())
    assert [*card_of(out)] == [("code", "train"), ("web", "train")]
    assert (out / "web/train/card.json").read_bytes() == web
    (source / "code/b.jsonl").unlink()
    run_conversion([str(source / "code")], out=out, recipe=recipe(), overwrite=True)
    assert card_of(out)["code", "train"].documents == 1
    (out / "card.json").unlink()
    assert run_conversion([str(source / "code")], out=out, recipe=recipe())["status"] == "converted"
    assert run_conversion([str(source / "code")], out=out, recipe=recipe())["status"] == "nothing to do"
    run_conversion([], out=out, recipe=recipe(), remove=["code"])
    assert [*card_of(out)] == [("web", "train")]
    assert not (out / "code").exists()


def test_a_card_that_is_lost_is_written_again(source, tmp_path, snapshot):
    out = tmp_path / "out"
    run_conversion([str(source / "web.jsonl")], out=out, recipe=recipe())
    whole = snapshot(out)
    (out / "web/train/card.json").unlink()
    run_conversion([str(source / "web.jsonl")], out=out, recipe=recipe())
    assert snapshot(out) == whole


def test_outputs_of_earlier_versions_have_none_and_stay_finished(source, tmp_path, capsys):
    out = tmp_path / "out"
    run_conversion([str(source / "web.jsonl")], out=out, recipe=recipe())
    for record in out.glob(".convert/parts/*/*.json"):
        fields = json.loads(record.read_bytes())
        del fields["statistics"], fields["hashes"]
        record.write_text(json.dumps(fields))
        record.with_suffix(".stats").unlink()
    for file in (out / ".convert/published.json", out / "domains.json"):
        said = json.loads(file.read_bytes())
        del said.get("groups", said)["web"]["cards"]
        file.write_text(json.dumps(said, ensure_ascii=False, indent=1))
    for card in out.rglob("card.json"):
        card.unlink()
    assert run_conversion([str(source / "web.jsonl")], out=out, recipe=recipe())["status"] == "nothing to do"
    assert not [*out.rglob("card.json")]
    assert main(["inspect", str(out), "--samples", "0"]) == 0
    assert (
        "without a data card (an earlier version wrote them, or another command): web/train" in capsys.readouterr().out
    )
    run_conversion([str(source / "code")], out=out, recipe=recipe())
    card = read_card((out / "card.json").read_bytes())
    assert ([each.domain for each in card.datasets], card.without) == (["code"], (("web", "train"),))


def test_the_tokenizer_is_copied_and_read_from_there(source, tmp_path, capsys):
    words = {word: at for at, word in enumerate(["<eos>", "[UNK]", "text", "x", "y", "=", "1", "2"])}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
    special = {"id": 0, "content": "<eos>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer = {"version": "1.0", "model": model, "added_tokens": [{**special, "normalized": False}]}
    file = tmp_path / "words/tokenizer.json"
    file.parent.mkdir()
    file.write_text(json.dumps({**tokenizer, "pre_tokenizer": {"type": "Whitespace"}}))
    out = tmp_path / "out"
    made = recipe(tokenizer=describe_tokenizer(str(file)), seq_len=8)
    named = [f"tokenizer={source / 'code'}", str(source / "web.jsonl")]  # a domain of the copy's own name
    run_conversion(named, out=out, recipe=made)
    assert (out / "tokenizer/tokenizer.json").read_bytes() == file.read_bytes()
    card = read_card((out / "card.json").read_bytes())
    assert card.tokenizer_files["tokenizer.json"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()
    assert main(["inspect", str(out / "tokenizer"), "--samples", "1"]) == 0
    assert "x = 1 x = 1" in capsys.readouterr().out
    (out / "tokenizer/tokenizer.json").write_text("{}")
    assert main(["inspect", str(out), "--samples", "1"]) == 0
    told = capsys.readouterr()
    assert "x = 1" not in told.out
    assert "not the file that the card names" in told.err
    run_conversion([], out=out, recipe=recipe(), remove=["tokenizer"])
    assert (out / "tokenizer/tokenizer.json").exists()
    run_conversion([f"tokenizer={source / 'code'}"], out=out, recipe=recipe(), overwrite=True)
    assert not (out / "tokenizer/tokenizer.json").exists()  # the last command's tokenizer, bytes, has no files


def test_bad_documents_are_in_it(write_tree, tmp_path):
    source = write_tree({"web.jsonl": '{"text": "' + "x" * 99 + '"}\nbad\n{"no": 1}\n'})
    made = recipe(on_bad_document="skip", fields=Fields(text="text"))
    run_conversion([str(source / "web.jsonl")], out=tmp_path / "out", recipe=made)
    card = read_card((tmp_path / "out/card.json").read_bytes())
    assert card.rejects["documents"] == 2
    assert len(card.rejects["examples"]) == 2


@given(st.integers(0, 1 << 62))
def test_a_length_lies_in_its_bin_which_is_narrow(length):
    low, high = edge_of(bin_of(length)), edge_of(bin_of(length) + 1)
    assert low <= length < high
    assert high - low <= max(low / 4, 1)


@given(st.lists(st.integers(0, 5000)), st.lists(st.integers(0, 5000)))
def test_histograms_of_parts_add_up(left, right):
    whole, *parts = LengthCounts(), LengthCounts(), LengthCounts()
    for counts, lengths in zip(parts, (left, right)):
        for length in lengths:
            counts.add(length)
            whole.add(length)
    parts[0].merge(parts[1])
    assert parts[0] == whole
    assert parts[0].describe() == whole.describe()


def corpus(seed: int) -> list[int]:
    """Hashes of 3000 documents: of 2000 texts, 1000 have a copy."""
    values = np.random.default_rng(seed).integers(0, 1 << 64, 2000, np.uint64)
    return [*map(int, values), *map(int, values[:1000])]


def counted(values: list[int], most: int) -> Hashes:
    counter = HashCounter(most)
    for value in values:
        counter.add("web", value)
        assert counter.kept <= most
    (found,) = (hashes for _, hashes in counter.finish())
    return found


def test_duplicates_are_exact_while_hashes_fit_and_unbiased_when_they_do_not():
    assert counted(corpus(0), 2000).describe().copies == 1000
    estimates = [counted(corpus(seed), 200).describe() for seed in range(200)]
    assert not any(each.exact for each in estimates)
    assert {each.share for each in estimates} <= {1 / 16, 1 / 32}
    copies = np.array([each.copies for each in estimates])
    error = copies.std() / np.sqrt(len(copies))
    assert abs(copies.mean() - 1000) < 4 * error < 60
    assert np.mean([each.standard_error for each in estimates]) == pytest.approx(copies.std(), rel=0.2)


@given(st.integers(0, 50), st.integers(1, 400), st.integers(0, 3000))
def test_hashes_of_parts_are_those_of_the_whole(seed, most, cut):
    values = corpus(seed)
    merger = HashMerger(most=most)
    for part in (values[cut:], values[:cut]):
        if part:
            hashes = counted(part, 1 << 20)
            merger.add(Hashes.load(hashes.dump(), hashes.level))
    merged, whole = merger.finish(), counted(values, most)
    assert merged.level == whole.level
    np.testing.assert_array_equal(merged.values_N, whole.values_N)
    np.testing.assert_array_equal(merged.counts_N, whole.counts_N)


def test_small_domains_stay_exact_beside_large_ones():
    counter = HashCounter(300)
    for at, value in enumerate(corpus(1)):
        counter.add("large", value)
        if at < 100:
            counter.add("small", at << 57)
    levels = {name: hashes.level for name, hashes in counter.finish()}
    assert levels["small"] == 0 < levels["large"]
