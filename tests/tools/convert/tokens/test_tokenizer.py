"""Tokenizers: what is described is what encodes, and text is only ever text."""

import hashlib
import json
import sys

import numpy as np
import pytest

from mixstream.errors import ConfigError
from mixstream_tools.cli import main
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer

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


@pytest.mark.parametrize("option", ["--eos", "--bos"])
@pytest.mark.parametrize("given", ["<|none|>", "9999", "-1", "<|endoftext>"])
def test_an_unknown_token_is_answered_with_those_of_the_file(tmp_path, option, given):
    save(tmp_path / "tokenizer.json", special=("<|endoftext|>", "<|odd|>"))
    with pytest.raises(ConfigError) as caught:
        describe_tokenizer(str(tmp_path), **{option.removeprefix("--"): given})
    assert f"{option} {given}: " in str(caught.value)
    assert "<|endoftext|> (256), <|odd|> (257); ids end at 257" in str(caught.value)


def test_without_a_usual_end_the_special_tokens_are_listed(tmp_path):
    save(tmp_path / "tokenizer.json", special=("<|odd|>", "<|start|>"))
    with pytest.raises(ConfigError, match=r"<\|odd\|> \(256\), <\|start\|> \(257\)"):
        describe_tokenizer(str(tmp_path))


def converted(read_rows, convert_json, source, out, *options):
    status, told, log = convert_json(source, "--out", out, "--seq-len", 1, *options)
    domain = next(iter(told.get("domains", {})), None)
    rows = read_rows(out / domain / "train").ravel().tolist() if domain else []
    return status, rows, told, log


def test_special_tokens_in_text(write_tree, tmp_path, convert_json, read_rows):
    library = save(tmp_path / "tok/tokenizer.json")
    eos = library.token_to_id("<|endoftext|>")
    source = write_tree({"d.txt": "a<|endoftext|>b"}) / "d.txt"
    tokenizer = ["--tokenizer", tmp_path / "tok"]
    library.encode_special_tokens = True
    letters = library.encode("a<|endoftext|>b").ids
    status, rows, told, log = converted(read_rows, convert_json, source, tmp_path / "text", *tokenizer)
    assert (status, rows) == (0, [*letters, eos])
    assert "'<|endoftext|>' 1 times" in told["warnings"][0]
    assert "--document-separator" in log
    status, rows, told, _ = converted(
        read_rows, convert_json, source, tmp_path / "parse", *tokenizer, "--special-tokens", "parse"
    )
    assert (status, rows, told["warnings"]) == (0, [letters[0], eos, letters[-1], eos], [])
    assert told["tokenizer"]["special_tokens"] == "parse"
    error = [*tokenizer, "--special-tokens", "error"]
    status, _, told, _ = converted(read_rows, convert_json, source, tmp_path / "error", *error)
    assert status == 1
    assert f"{source}: it holds the special token '<|endoftext|>' at character 1" in told["error"]["message"]


@pytest.mark.parametrize("size", [1, 4000, 4_194_300])
def test_an_error_names_the_place_in_a_file_of_any_size(write_tree, tmp_path, convert_json, size):
    """4,194,300 characters lie in the first block that is read, the token behind them in two."""
    source = write_tree({"d/a.txt": "x" * size + "<|endoftext|>", "d/b.jsonl": '{"text": "good"}\n' * 9})
    (source / "d/b.jsonl").write_text('{"text": "x"}\n{"text": "a <|endoftext|>"}\n')
    run = [source / "d", "--out", tmp_path / "out", "--seq-len", 2, "--special-tokens", "error", "--on-bad-document"]
    status, told, _ = convert_json(*run, "skip")
    assert status == 0
    assert told["skipped"]["documents"] == 2
    assert f"at character {size} (" in told["skipped"]["examples"][0]
    assert "b.jsonl, line 2: the field 'text' holds the special token '<|endoftext|>' at character 2" in str(told)


def test_a_token_before_each_document(write_tree, tmp_path, convert_json, read_rows):
    library = save(tmp_path / "tok/tokenizer.json", special=("<|endoftext|>", "<s>"))
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 257)])
    library.save(str(tmp_path / "tok/tokenizer.json"))
    source = write_tree({"d/a.txt": "a", "d/b.txt": "b"}) / "d"
    tokenizer = ["--tokenizer", tmp_path / "tok"]
    _, rows, _, log = converted(read_rows, convert_json, source, tmp_path / "none", *tokenizer)
    assert 257 not in rows
    assert "documents begin without <s>" in log
    assert json.loads((tmp_path / "none/.convert/run.json").read_bytes())["recipe"]["bos"] is None
    _, with_bos, told, log = converted(read_rows, convert_json, source, tmp_path / "bos", *tokenizer, "--bos", "<s>")
    assert with_bos == [257, rows[0], 256, 257, rows[2], 256]
    assert told["tokenizer"]["bos"] == 257
    assert "begin without" not in log
    status, told, _ = convert_json(source, "--out", tmp_path / "bos", "--seq-len", 1, *tokenizer)
    assert status == 1
    assert "--bos was 257, is null" in told["error"]["message"]


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--bos", "<s>"], "the bytes tokenizer has no token for it"),
        (["--special-tokens", "parse"], "no text can spell a token"),
        (["--document-separator", ""], "is empty"),
        (["--document-separator", "\\q"], "is no escape"),
        (["--document-separator", "x\\"], "is no escape"),
    ],
)
def test_options_that_cannot_be(write_tree, tmp_path, convert_json, options, fact):
    status, told, _ = convert_json(write_tree({"a.txt": "x"}), "--out", tmp_path / "out", *options)
    assert status == 2
    assert fact in told["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_run_of_an_earlier_version_goes_on_where_nothing_changed(write_tree, tmp_path, convert_json):
    source = write_tree({"d/a.txt": "text " * 50})
    run = [source / "d", "--out", tmp_path / "out", "--seq-len", 8]
    convert_json(*run)
    path = tmp_path / "out/.convert/run.json"
    settings = json.loads(path.read_bytes())
    for option in ("bos", "special-tokens", "document-separator"):
        del settings["recipe"][option]
    path.write_text(json.dumps(settings, indent=1, sort_keys=True))
    summary = json.loads((tmp_path / "out/domains.json").read_bytes())
    summary["identity"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "out/domains.json").write_text(json.dumps(summary, indent=1))
    shard = tmp_path / "out/d/train/part-00000/shard.00000.mds"
    before = shard.stat().st_mtime_ns
    status, told, _ = convert_json(*run)
    assert (status, told["converted_bytes"], shard.stat().st_mtime_ns) == (0, 0, before)
    settings["recipe"]["layout"] = 1
    settings["groups"]["d"]["identity"] = "of that version"
    path.write_text(json.dumps(settings))
    record = tmp_path / "out/.convert/parts/d/00000.json"
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "identity": "of that version"}))
    status, told, _ = convert_json(*run)
    assert status == 1
    assert "another version of mixstream began it" in told["error"]["message"]


def test_a_special_token_that_merges_would_make_stays_letters(tmp_path):
    tokenizer = Tokenizer(
        models.BPE(vocab={"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "<eos>": 5}, merges=[("a", "b"), ("ab", "c")])
    )
    tokenizer.add_special_tokens([AddedToken("abc", special=True), AddedToken("<eos>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (ids,) = describe_tokenizer(str(tmp_path), "<eos>").load().encode(["abcab"])
    assert ids.tolist() == [3, 2, 3]


def test_added_tokens_that_are_not_marked_special_are_named(write_tree, tmp_path, capsys):
    library = save(tmp_path / "tokenizer.json")
    library.add_tokens(["<think>", "    "])
    library.save(str(tmp_path / "tokenizer.json"))
    spec = describe_tokenizer(str(tmp_path / "tokenizer.json"), special_tokens="error")
    assert spec.load().encode(["<think>"])[0].tolist() == [library.token_to_id("<think>")]
    source = write_tree({"a/x.txt": "<think> " * 20})
    run = [
        "convert",
        source / "a",
        "--out",
        tmp_path / "out",
        "--tokenizer",
        tmp_path / "tokenizer.json",
        "--seq-len",
        4,
    ]
    assert main([*map(str, run)]) == 0
    assert "does not mark <think> as special" in capsys.readouterr().err
