"""Tokenizers: what is described is what encodes, and text is only ever text."""

import json
import sys

import numpy as np
import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert.tokenizer import describe_tokenizer

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402


def save(path, *, special=("<|endoftext|>",), ordinary=(), size=0) -> Tokenizer:
    """A byte-level tokenizer.json without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *ordinary, *(f"unused{at}" for at in range(size))]
    tokenizer = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def test_bytes():
    spec = describe_tokenizer("bytes")
    assert (spec.vocab_size, spec.eos, spec.dtype) == (257, 256, "uint16")
    first, second = spec.load().encode(["aä", ""])
    assert first.tolist() == [97, 0xC3, 0xA4]
    assert first.dtype == np.uint16
    assert second.tolist() == []


def test_a_file_encodes_as_the_library_does(tmp_path):
    library = save(tmp_path / "llama/tokenizer.json")
    spec = describe_tokenizer(str(tmp_path / "llama/tokenizer.json"))
    assert spec.name == "llama"
    assert spec.describe() == describe_tokenizer(str(tmp_path / "llama")).describe()
    texts = ["plain text", "ümläut 🙂\n", ""]
    for text, ids in zip(texts, spec.load().encode(texts)):
        assert ids.tolist() == library.encode(text).ids
        assert library.decode(ids.tolist()) == text


def test_text_is_only_ever_text(tmp_path):
    """No token for what looks like one; no template, no truncation, no padding, whatever the file asks for."""
    library = save(tmp_path / "tokenizer.json", special=("<|endoftext|>", "[BOS]"))
    library.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 257)])
    library.enable_truncation(3)
    library.enable_padding(length=9)
    library.save(str(tmp_path / "tokenizer.json"))
    spec = describe_tokenizer(str(tmp_path / "tokenizer.json"))
    (ids,) = spec.load().encode(["ab<|endoftext|>"])
    assert len(ids) == 2 + len("<|endoftext|>")
    assert spec.eos not in ids
    assert 257 not in ids


@pytest.mark.parametrize(("words", "dtype"), [(65535, "uint16"), (65536, "uint32")])
def test_ids_take_two_bytes_as_long_as_they_fit(tmp_path, words, dtype):
    save(tmp_path / "tokenizer.json", size=words - 256)
    spec = describe_tokenizer(str(tmp_path / "tokenizer.json"))
    assert spec.vocab_size == words + 1
    assert spec.dtype == dtype
    assert spec.load().encode(["x"])[0].dtype == np.dtype(dtype)


def test_end_of_document_by_name_or_number(tmp_path):
    path = str(tmp_path / "tokenizer.json")
    library = save(tmp_path / "tokenizer.json", special=("<|odd|>",))
    assert describe_tokenizer(path, "<|odd|>").eos == library.token_to_id("<|odd|>") == 256
    assert describe_tokenizer(path, "256").eos == 256
    for eos in ("<|none|>", "257"):
        with pytest.raises(ConfigError, match="has no such token"):
            describe_tokenizer(path, eos)
    with pytest.raises(ConfigError, match="none of the usual tokens"):
        describe_tokenizer(path)


def test_end_of_document_is_not_guessed_between_two(tmp_path):
    save(tmp_path / "tokenizer.json", special=("</s>", "<|endoftext|>"))
    with pytest.raises(ConfigError, match=r"several tokens .*: <\|endoftext\|>, </s>\. Choose: --eos"):
        describe_tokenizer(str(tmp_path))


def test_a_special_token_goes_before_a_word_that_looks_like_one(tmp_path):
    library = save(tmp_path / "tokenizer.json", special=("<eos>",), ordinary=("</s>",))
    assert describe_tokenizer(str(tmp_path)).eos == library.token_to_id("<eos>")


def test_what_is_no_tokenizer(tmp_path, monkeypatch):
    (tmp_path / "bad.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(ConfigError, match="not a tokenizer"):
        describe_tokenizer(str(tmp_path / "bad.json"))
    with pytest.raises(ConfigError, match="hf download"):
        describe_tokenizer("gpt2")
    with pytest.raises(ConfigError, match="leave --eos out"):
        describe_tokenizer("bytes", "0")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install tokenizers"):
        describe_tokenizer(str(tmp_path / "bad.json"))


def test_a_tokenizer_that_changed_is_refused(tmp_path):
    save(tmp_path / "tokenizer.json")
    spec = describe_tokenizer(str(tmp_path))
    save(tmp_path / "tokenizer.json", size=5)
    with pytest.raises(ConfigError, match="changed while it was in use"):
        spec.load()


def test_convert_with_a_tokenizer(write_tree, tmp_path, convert_json, read_rows, read_meta):
    library = save(tmp_path / "tok/tokenizer.json", size=70_000)
    texts = [f"dies ist {at} " * 20 for at in range(20)]
    source = write_tree({f"de/{at:02}.txt": text for at, text in enumerate(texts)})
    status, _, _ = convert_json(
        source / "de", "--out", tmp_path / "out", "--tokenizer", tmp_path / "tok", "--seq-len", 32
    )
    assert status == 0
    eos = library.token_to_id("<|endoftext|>")
    expected = [token for text in texts for token in (*library.encode(text).ids, eos)]
    rows = read_rows(tmp_path / "out/de/train")
    assert rows.ravel().tolist() == expected[: len(expected) // 32 * 32]
    meta = read_meta(tmp_path / "out/de/train")
    assert (meta["tokenizer"]["name"], meta["tokenizer"]["eos"]) == ("tok", eos)
