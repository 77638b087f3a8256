"""Every kind of tokenizer: text is only ever text, ids come back as text, copies are the same tokenizer."""

import json
import pickle
import sys
from pathlib import Path

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.cli import main
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer
from mixstream_tools.shared.token_texts import TokenizerFile
from mixstream_tools.shared.tokenizers import find_tokenizer

from .conftest import TEXT, make

TEXTS = ["", " ", TEXT * 3, "  lead and trail  ", "a\n\n\tb\r\n", "ümläut 日本語 🙂 e\u0301", "\x01\x7f", "x" * 300]


def test_ids_are_decoded_to_the_text(named):
    spec = describe_tokenizer(named)
    tokenizer = spec.load()
    for text, ids in zip(TEXTS, tokenizer.encode(TEXTS)):
        assert ids.dtype == spec.dtype == "uint16"
        assert ids.max(initial=0) < spec.vocab_size
        assert tokenizer.decode(ids, special=True) == tokenizer.decode(ids.tolist(), special=False) == text


def test_a_text_that_spells_a_special_token_stays_text(named):
    spec = describe_tokenizer(named)
    assert len(spec.words) > 1 or "<|endoftext|>" in spec.words
    text = "a " + " b".join(spec.words)
    (ids,) = spec.load().encode([text])
    special = {spec.source.vocabulary().special[word] for word in spec.words}
    assert not special & {*ids.tolist()}
    assert spec.eos not in ids
    assert spec.load().decode(ids, special=False) == text


def test_parse_makes_it_the_token(named):
    spec = describe_tokenizer(named, special_tokens="parse")
    special = spec.source.vocabulary().special
    text = "a" + "b".join(spec.words) + "c"
    (ids,) = spec.load().encode([text])
    assert [token for token in ids.tolist() if token in special.values()] == [special[word] for word in spec.words]
    assert spec.load().decode(ids, special=True) == text
    shown = spec.load().decode(ids, special=False)  # SentencePiece puts a space before what follows the token
    assert shown.replace(" ", "") == "a" + "b" * (len(spec.words) - 1) + "c"


def test_both_ends_of_a_document(named, kind):
    """Found without an option; `auto` is what the tokenizer does by itself, `none` is none."""
    spec, own = describe_tokenizer(named), describe_tokenizer(named, "auto", bos="auto")
    special = spec.source.vocabulary().special
    assert spec.eos == own.eos == special["<|endoftext|>" if kind == "tiktoken" else "</s>"]
    assert spec.bos is None
    assert own.bos == (None if kind in {"sentencepiece", "tiktoken"} else special["<s>"])
    none = describe_tokenizer(named, "none", bos="none")
    assert (none.eos, none.bos) == (None, None)
    for word, at in special.items():
        assert describe_tokenizer(named, word, bos=str(at)).eos == at
    with pytest.raises(ConfigError, match=r"--eos </z>: .* has no such token\."):
        describe_tokenizer(named, "</z>")


def test_a_copy_is_the_same_tokenizer(named, tmp_path):
    for options in ({}, {"special_tokens": "parse", "bos": "auto"}):
        spec = describe_tokenizer(named, **options)
        spec.copy_to(tmp_path / "copy")
        copy = describe_tokenizer(str(tmp_path / "copy"), **options)
        assert copy.describe() == spec.describe()
        assert copy.words == spec.words
        assert [ids.tolist() for ids in copy.load().encode(TEXTS)] == [
            ids.tolist() for ids in spec.load().encode(TEXTS)
        ]
    (main,) = spec.source.files
    copied = tmp_path / "copy" / main.name
    copied.write_bytes(copied.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match="its files are not those"):
        find_tokenizer(str(tmp_path / "copy"))


def test_workers_get_it_pickled_and_refuse_a_file_that_changed(named):
    spec = pickle.loads(pickle.dumps(describe_tokenizer(named)))
    spec.load()
    path = Path(spec.path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ConfigError, match="changed while it was in use"):
        spec.load()


def test_other_commands_decode_and_count(named):
    found = TokenizerFile.find(named)
    (ids,) = describe_tokenizer(named).load().encode([TEXT])
    assert found.hash == describe_tokenizer(named).describe()["hash"]
    assert found.load()(ids) == TEXT
    assert found.load()([*ids.tolist(), 60_000, -1]) == TEXT  # ids of no token
    assert found.load_counter()([TEXT, ""]).tolist() == [len(ids) + 1, 1]
    assert found.load_encoder()(TEXT).tolist() == ids.tolist()


@pytest.mark.parametrize("package", ["tokenizers", "sentencepiece", "tiktoken"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    named = make({"tokenizers": "tokenizer.json"}.get(package, package), tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        describe_tokenizer(named).load()


def test_threads_share_the_texts(named, monkeypatch):
    texts = [TEXT[at:] for at in range(40)]
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    one = describe_tokenizer(named).load().encode(texts)
    monkeypatch.setenv("RAYON_NUM_THREADS", "3")
    three = describe_tokenizer(named).load().encode(texts)
    assert [ids.tolist() for ids in one] == [ids.tolist() for ids in three]


def test_a_conversion_decodes_to_its_documents(named, tmp_path, write_tree, convert_json, read_rows, capsys):
    documents = [TEXT, "a </s> and <s>, <|endoftext|> too", "  x\n\ny  ", "日本語", TEXT * 4]
    source = write_tree({"d.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in documents)}) / "d.jsonl"
    out = tmp_path / "out"
    status, told, _ = convert_json(source, "--out", out, "--tokenizer", named, "--seq-len", 1)
    assert status == 0
    assert "spell out special tokens" in told["warnings"][0]
    spec = describe_tokenizer(str(out / "tokenizer"))
    assert told["tokenizer"] == spec.describe()
    found: list[list[int]] = [[]]
    for token in read_rows(out / "d/train").ravel().tolist():
        found.append([]) if token == spec.eos else found[-1].append(token)
    assert [spec.load().decode(ids, special=True) for ids in found] == [*documents, ""]
    convert_json(source, "--out", tmp_path / "long", "--tokenizer", named, "--seq-len", 40)
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "long"), "--tokenizer", str(out / "tokenizer"), "--samples", "1"]) == 0
    shown = capsys.readouterr()
    assert "the cat sat" in shown.out
    assert "will be wrong" not in shown.err
