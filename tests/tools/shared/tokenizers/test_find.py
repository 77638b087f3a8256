"""What `--tokenizer` names, and what is refused: files that do not say what they are, or say it wrongly."""

import json

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer
from mixstream_tools.shared.tokenizers import DESCRIPTION, find_tokenizer
from mixstream_tools.shared.tokenizers.encodings import ENCODINGS, LLAMA_3

from .conftest import PATTERN, TEXT, WORDS, make, ranks_file, save_json, trained_pieces, write_config


def test_known_encodings_are_those_of_the_package(monkeypatch):
    """All but the file, which the package downloads."""
    public = pytest.importorskip("tiktoken_ext.openai_public")
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *args, expected_hash: {expected_hash: 0})
    monkeypatch.setattr(public, "data_gym_to_mergeable_bpe_ranks", lambda **args: {})
    for name, make_encoding in public.ENCODING_CONSTRUCTORS.items():
        theirs, ours = make_encoding(), ENCODINGS[name]
        assert theirs["pat_str"] == ours.pattern
        assert {*ours.special.items()} <= {*theirs["special_tokens"].items()}
        assert {*ours.special.values()} == {*theirs["special_tokens"].values()}
        assert {*theirs["mergeable_ranks"]} == ours.hashes


def test_llama_3_and_qwen():
    llama, qwen = ENCODINGS["llama3"], ENCODINGS["qwen"]
    assert (llama.special["<|begin_of_text|>"], llama.special["<|eot_id|>"], len(llama.special)) == (
        128_000,
        128_009,
        256,
    )
    assert max(llama.special.values()) == 128_255
    assert (qwen.special["<|endoftext|>"], qwen.special["<|extra_204|>"]) == (151_643, 151_850)
    assert LLAMA_3.count(r"\p{N}") == qwen.pattern.count(r"\p{N}") == 3


def test_a_tiktoken_file_whose_encoding_is_unknown_is_asked_for(tmp_path):
    ranks_file(tmp_path / "some.tiktoken")
    with pytest.raises(
        ConfigError, match=r"not known by its name or its SHA-256 .* --tokenizer ENCODING=.*cl100k_base"
    ):
        find_tokenizer(str(tmp_path))
    assert find_tokenizer(f"gpt2={tmp_path}").pattern == ENCODINGS["gpt2"].pattern
    other = f"cl100k_base={tmp_path / 'some.tiktoken'}"
    assert find_tokenizer(other).hash != find_tokenizer(f"gpt2={tmp_path}").hash  # the ids are others
    assert find_tokenizer(other).name == "cl100k_base"


def test_a_file_that_only_has_the_name_of_an_encoding_is_refused(tmp_path):
    path = ranks_file(tmp_path / "cl100k_base.tiktoken")
    with pytest.raises(ConfigError, match=r"its SHA-256 is .* not that of cl100k_base"):
        find_tokenizer(str(path))


def test_special_tokens_that_are_words_of_the_file_are_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(ranks_file(tmp_path / "x").read_bytes())
    write_config(tmp_path, {260: ("</s>", True)})
    with pytest.raises(ConfigError, match="it has 267 tokens, and the id of '</s>', 260, is one of theirs"):
        describe_tokenizer(f"gpt2={tmp_path}")


def test_two_files_of_gpt_2(tmp_path):
    """vocab.bpe with encoder.json, or by Hugging Face's names; the ids are those of tokenizers' own reader."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("tiktoken")
    letters = [*(chr(at) for at in range(256) if chr(at).isprintable() and at != 32)]
    letters += [chr(256 + at) for at in range(256 - len(letters))]
    merges = ["t h", "th e", "Ġ t", "Ġ th", "Ġ the"]
    words = [*letters, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    vocabulary = json.dumps({word: at for at, word in enumerate(words)})
    for bpe, encoder in (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json")):
        place = tmp_path / bpe
        place.mkdir()
        (place / bpe).write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (place / encoder).write_text(vocabulary)
        spec = describe_tokenizer(str(place))
        assert (spec.eos, spec.vocab_size, len(spec.describe()["files"])) == (261, 262, 2)
        reference = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(place / encoder), str(place / bpe)))
        reference.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        (ids,) = spec.load().encode([TEXT])
        assert ids.tolist() == reference.encode(TEXT).ids
        spec.copy_to(tmp_path / "copy" / bpe)
        assert describe_tokenizer(str(tmp_path / "copy" / bpe)).describe() == spec.describe()
        write_config(place, {}, tokenizer_class="RobertaTokenizer")
        with pytest.raises(ConfigError, match="does not say how a text is cut into words"):
            find_tokenizer(str(place))
    (place / "vocab.json").write_text(json.dumps({word: len(words) - at for at, word in enumerate(words)}))
    with pytest.raises(ConfigError, match="another order than the ids"):
        find_tokenizer(f"gpt2={place}")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "not a SentencePiece model|not a tokenizer of a kind"),
        (b"<html><body>Not found</body></html>", "not a SentencePiece model"),
        (None, "not a SentencePiece model"),
        (b"YQ== 0\nYg== x\n", "line 2 is"),
        (b"YQ== 0\nYg== 0\n", "two tokens have one rank"),
        (b"YQ== 0\nYg== 1\n", "254 of the 256 bytes have no token"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, fact):
    content = trained_pieces()[:-40] if content is None else content
    (tmp_path / "ours.model").write_bytes(content)
    ranks = b" " in content and b"<" not in content
    with pytest.raises(ConfigError, match=fact):
        describe_tokenizer(f"gpt2={tmp_path / 'ours.model'}" if ranks else str(tmp_path / "ours.model"))


def test_a_directory_with_one_model_of_any_name(tmp_path):
    (tmp_path / "j2-tokenizer.model").write_bytes(trained_pieces())
    (tmp_path / "config.json").write_text("{}")
    assert find_tokenizer(str(tmp_path)).kind == find_tokenizer(str(tmp_path / "j2-tokenizer.model")).kind
    (tmp_path / "second.model").write_bytes(trained_pieces())
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        find_tokenizer(str(tmp_path))


def test_a_directory_with_two_tokenizers(tmp_path):
    for name in ("a.tiktoken", "b.tiktoken"):
        ranks_file(tmp_path / name)
    with pytest.raises(ConfigError, match=r"it has several tokenizers \(a.tiktoken, b.tiktoken\)"):
        find_tokenizer(str(tmp_path))
    save_json(tmp_path / "tokenizer.json")
    assert find_tokenizer(str(tmp_path)).kind == "tokenizer.json"


def test_added_tokens_of_a_directory_and_user_defined_pieces(tmp_path):
    """Special where the configuration says so, else tokens in every text, which a note names."""
    named = make("sentencepiece-directory", tmp_path / "llama")
    spec = describe_tokenizer(named)
    assert (spec.vocab_size, spec.name, spec.puts_first) == (342, "llama", "<s>")
    assert {*spec.unmarked} == {"<think>", "<tool>"}
    (ids,) = spec.load().encode(["a<tool>b<think>c<turn>d<|im_end|>"])
    assert [token for token in ids.tolist() if token > 339] == [341]
    shown = spec.load()
    assert shown.decode([340, 341], special=True) == "<|im_end|><tool>"
    bare = describe_tokenizer(make("sentencepiece", tmp_path / "bare"))
    assert {*bare.unmarked} == {"<think>", "<turn>"}
    assert bare.hash != spec.hash  # `<turn>` is letters for one of them


def test_a_model_that_numbers_its_pieces_otherwise_is_refused(tmp_path):
    """As XLM-R's does, whose ids in transformers are one more than the model's."""
    make("sentencepiece-directory", tmp_path / "x")
    write_config(tmp_path / "x", {0: ("<s>", True), 2: ("</s>", True)}, tokenizer_class="XLMRobertaTokenizer")
    with pytest.raises(ConfigError, match="says that the id of '<s>' is 0, which in the model is '<unk>'"):
        find_tokenizer(str(tmp_path / "x"))


def test_the_usual_end_goes_before_that_of_a_chat_model(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    made.add_special_tokens(["<|endoftext|>", "<|im_end|>", "</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="several tokens"):
        describe_tokenizer(str(tmp_path))
    write_config(tmp_path, {})
    assert describe_tokenizer(str(tmp_path)).eos == 3
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    made.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    spec = describe_tokenizer(str(tmp_path))
    assert spec.eos == 1
    assert "name <|im_end|> as the end of a text: --eos '<|im_end|>' takes that" in spec.notes[0]
    (tmp_path / "special_tokens_map.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"special_tokens_map\.json: not a JSON object"):
        describe_tokenizer(str(tmp_path))


def test_a_description_by_hand(tmp_path):
    pytest.importorskip("tiktoken")
    ranks_file(tmp_path / "kimi.tiktoken")
    said = {"kind": "tiktoken", "files": ["kimi.tiktoken"], "pattern": PATTERN, "special_tokens": {"[EOS]": 999}}
    (tmp_path / DESCRIPTION).write_text(json.dumps(said))
    spec = describe_tokenizer(str(tmp_path))
    assert (spec.eos, spec.vocab_size, spec.name) == (999, 1000, "kimi")
    assert spec.load().encode([" the"])[0].tolist() == [256 + WORDS.index(b" the")]
    for wrong in ({"kind": "magic"}, {"files": ["../kimi.tiktoken"]}, {"files": []}, {"special_tokens": [1]}):
        (tmp_path / DESCRIPTION).write_text(json.dumps({**said, **wrong}))
        with pytest.raises(ConfigError, match="not a description of a tokenizer"):
            find_tokenizer(str(tmp_path))


def test_a_run_of_spaces_that_exhausts_the_pattern(tmp_path):
    pytest.importorskip("tiktoken")
    ranks_file(tmp_path / "x.tiktoken")
    tokenizer = describe_tokenizer(f"o200k_base={tmp_path / 'x.tiktoken'}").load()
    text = "a" + " " * 1_100_000 + "b"
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids, special=True) == text
