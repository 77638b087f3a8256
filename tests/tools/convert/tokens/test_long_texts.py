"""The tokenizer does not see where a long document is cut: its tokens are those of the whole document."""

import json
import random
from functools import cache

import numpy as np
import pytest

from mixstream_tools.convert.readers import reader
from mixstream_tools.convert.tokens import long_texts
from mixstream_tools.convert.tokens.long_texts import LongText, encode_texts
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer
from mixstream_tools.convert.work import work

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402

WORDS = "the cat sat on a mat while it was raining and nobody's umbrella (of 1234567 colours) could've been opened\n"
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<unk>", "<s>", "</s>"]


def trained(tokenizer: Tokenizer, kind: type = trainers.BpeTrainer, **options) -> Tokenizer:
    rng = random.Random(0)
    words = WORDS.split()
    lines = [" ".join(rng.choices(words, k=12)) + "\n" for _ in range(300)]
    tokenizer.train_from_iterator(lines, kind(vocab_size=400, special_tokens=SPECIAL, show_progress=False, **options))
    return tokenizer


def llama_2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer = trained(tokenizer, initial_alphabet=["\n"])
    tokenizer.pre_tokenizer = None  # so that the model sees the whole text as one word, as Llama-2's does
    return tokenizer


def metaspace(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return trained(tokenizer, trainers.UnigramTrainer, unk_token="<unk>")


def byte_level(*, prefix: bool = False, regex: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    return trained(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def gpt_4() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(GPT4), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return trained(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return trained(tokenizer, trainers.WordPieceTrainer)


KINDS = {
    "llama-2": llama_2,
    "unigram": lambda: metaspace("always"),
    "unigram-first": lambda: metaspace("first"),
    "gpt-2": byte_level,
    "roberta": lambda: byte_level(prefix=True),
    "gpt-4": gpt_4,
    "bert": word_piece,
    "without words": lambda: byte_level(regex=False),
}
made = cache(lambda kind: KINDS[kind]())
TEXTS = {
    "prose": WORDS * 60,
    "no newline": WORDS.replace("\n", " ") * 60,
    "no space": WORDS.replace(" ", "").replace("\n", "") * 60,
    "one letter": "a" * 5000,
    "spaces": "x" + " " * 5000 + "y",
    "newlines": "\n" * 5000 + "y",
    "code": "def f(x):\n        return x + 1\n\n\n" * 150,
    "characters": "的一是不了e\u0301人我在有👩‍👩‍👧" * 400,
    "special": "one </s> two <s> three <unk> " * 200,
    "returns": WORDS.replace("\n", "\r\n") * 60,
}


@pytest.fixture
def saved(tmp_path):
    def save(kind: str) -> str:
        made(kind).save(str(tmp_path / "tokenizer.json"))
        return str(tmp_path / "tokenizer.json")

    return save


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_the_whole(kind, text, saved, monkeypatch):
    monkeypatch.setattr(long_texts, "_NEAR", 200)
    monkeypatch.setattr(long_texts, "_SEGMENT", 600)
    whole = TEXTS[text]
    for special in ("text", "parse"):
        tokenizer = describe_tokenizer(saved(kind), "</s>", special_tokens=special).load()
        (expected,) = tokenizer.encode([whole])
        assert encode_texts(tokenizer.encode, ["a b", whole])[1].tolist() == expected.tolist()
        for size in (900, 1511):
            long = LongText(tokenizer.encode)
            starts = range(0, len(whole), size)
            given = [long.add(whole[at : at + size], ends=at == starts[-1]) for at in starts]
            assert given[-1] is not None
            np.testing.assert_array_equal(np.concatenate([ids for ids in given if ids is not None]), expected)
            if text == "prose":
                assert sum(ids is not None for ids in given) > len(given) // 2  # memory stays bounded


@pytest.mark.parametrize("kind", ["llama-2", "unigram", "gpt-2"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_long_document_among_others(kind, suffix, saved, tmp_path, write_tree, convert_json, read_rows, monkeypatch):
    """The piece that was cut had one `▁` more with Llama-2's tokenizer."""
    monkeypatch.setattr(long_texts, "_NEAR", 200)
    monkeypatch.setattr(reader, "PIECE_CHARS", 2000)
    texts = [WORDS, WORDS * 100, "short", WORDS * 50]
    files = {
        f"d/{at}.{suffix}": text if suffix == "txt" else json.dumps({"text": text}) for at, text in enumerate(texts)
    }
    options = ["--tokenizer", saved(kind), "--eos", "</s>", "--bos", "<s>", "--seq-len", 8]
    status, told, _ = convert_json(write_tree(files) / "d", "--out", tmp_path / "out", *options)
    assert (status, told["domains"]["d"]["train"]["documents"]) == (0, len(texts))
    library = made(kind)
    ends = [library.token_to_id(word) for word in ("<s>", "</s>")]
    expected = [
        token for text in texts for token in (ends[0], *library.encode(text, add_special_tokens=False).ids, ends[1])
    ]
    assert read_rows(tmp_path / "out/d/train").ravel().tolist() == expected[: len(expected) // 8 * 8]


def test_threads_do_not_change_the_rows(saved, tmp_path, write_tree, convert_json, read_rows, monkeypatch):
    """With several threads, the next batch is encoded while rows are packed, and batches are larger."""
    monkeypatch.setattr(long_texts, "_NEAR", 200)
    monkeypatch.setattr(long_texts, "_SEGMENT", 3000)
    monkeypatch.setattr(reader, "PIECE_CHARS", 8000)
    monkeypatch.setattr(work, "_BATCH_CHARS", 2000)
    texts = [WORDS * count for count in (1, 3, 200, 2, 70, 40, 1, 150, 5)]
    source = write_tree({"d.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts)}) / "d.jsonl"
    rows = []
    for threads in ("1", "3"):
        monkeypatch.setenv("RAYON_NUM_THREADS", threads)
        options = ["--tokenizer", saved("gpt-4"), "--eos", "</s>", "--seq-len", 8, "--workers", 1]
        assert convert_json(source, "--out", tmp_path / threads, *options)[0] == 0
        rows.append(read_rows(tmp_path / threads / "d/train").ravel().tolist())
    library = made("gpt-4")
    expected = [token for text in texts for token in (*library.encode(text).ids, library.token_to_id("</s>"))]
    assert rows == [expected[: len(expected) // 8 * 8]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_becomes_a_special_token(kind, saved):
    """Of a Unigram model `</s>` is a piece like others, so it ended documents."""
    path = saved(kind)
    text = "a </s> b<s>c </s></s> \uffff</s> x\n"
    spec = describe_tokenizer(path, "</s>")
    (ids,) = spec.load().encode([text])
    ordinary = made(kind)
    special = {ordinary.token_to_id(word) for word in ("<s>", "</s>")}
    assert not special & set(ids.tolist())
    plain = WORDS * 3
    assert spec.load().encode([plain])[0].tolist() == ordinary.encode(plain, add_special_tokens=False).ids
    (parsed,) = describe_tokenizer(path, "</s>", special_tokens="parse").load().encode(["a</s>b"])
    assert spec.eos in parsed


def test_a_tokenizer_that_cannot_be_cut_sees_the_whole():
    long = LongText(lambda texts: [np.array([len(text), *text.encode()], np.uint16) for text in texts])
    assert long.add("word " * 2000, ends=False) is None
    assert long.add("end", ends=True)[0] == 10_003


def test_one_long_text_is_many_texts_of_one_call(saved, monkeypatch):
    """So all threads of the tokenizer work on it; it held one of them before."""
    monkeypatch.setattr(long_texts, "_SEGMENT", 20_000)
    tokenizer = describe_tokenizer(saved("gpt-4"), "</s>").load()
    calls: list[list[int]] = []

    def encode(texts):
        calls.append([len(text) for text in texts])
        return tokenizer.encode(texts)

    whole = WORDS * (5 * long_texts._SEGMENT // len(WORDS))
    long, short = encode_texts(encode, [whole, WORDS])
    assert max(len(call) for call in calls) >= 5
    assert max(max(call) for call in calls) < 2 * long_texts._SEGMENT
    np.testing.assert_array_equal(long, tokenizer.encode([whole])[0])
    np.testing.assert_array_equal(short, tokenizer.encode([WORDS])[0])
