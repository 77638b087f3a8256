"""One small tokenizer of every kind, with `<s>`, `</s>` and `<|endoftext|>` among its special tokens."""

import base64
import io
import json
from functools import cache
from pathlib import Path

import pytest

from mixstream_tools.shared.tokenizers import DESCRIPTION

TEXT = "the cat sat on a mat while it was raining and nobody's umbrella (of 1234567 colours) could be opened\n"
WORDS = [b"th", b"the", b" t", b" th", b" the", b" a", b"at", b" m", b" mat", b"in", b"ing"]
PATTERN = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
KINDS = ("tokenizer.json", "directory", "sentencepiece", "sentencepiece-directory", "tiktoken", "tiktoken-directory")


@cache
def trained_pieces(kind: str = "bpe") -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT, "nothing </s> else <s> here\n"] * 50), model_writer=model, vocab_size=340,
        model_type=kind, byte_fallback=True, character_coverage=1.0, user_defined_symbols=["<think>", "<turn>"],
        control_symbols=["<mask>"], minloglevel=2, hard_vocab_limit=False, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    return model.getvalue()


def ranks_file(path: Path) -> Path:
    tokens = [*(bytes([at]) for at in range(256)), *WORDS]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % at for at, token in enumerate(tokens)))
    return path


def save_json(path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    options = {"vocab_size": 300, "initial_alphabet": alphabet, "show_progress": False}
    made.train_from_iterator([TEXT], tokenizers.trainers.BpeTrainer(special_tokens=["<s>", "</s>"], **options))
    first = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.post_processor = first
    made.save(str(path))
    return path


def write_config(directory: Path, tokens: dict[int, tuple[str, bool]], **more: object) -> None:
    decoder = {str(at): {"content": word, "special": special} for at, (word, special) in tokens.items()}
    config = {"added_tokens_decoder": decoder, "bos_token": {"content": "<s>"}, "eos_token": "</s>", **more}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def make(kind: str, directory: Path) -> str:
    """The value of `--tokenizer` for a tokenizer of a kind, which is written into `directory`."""
    directory.mkdir(exist_ok=True)
    if kind == "tokenizer.json":
        return str(save_json(directory / "tokenizer.json"))
    if kind == "directory":
        save_json(directory / "tokenizer.json")
        write_config(directory, {})
    elif kind == "sentencepiece":
        (directory / "ours.model").write_bytes(trained_pieces())
        return str(directory / "ours.model")
    elif kind == "sentencepiece-directory":
        (directory / "tokenizer.model").write_bytes(trained_pieces())
        more = {340: ("<|im_end|>", True), 341: ("<tool>", False)}
        write_config(directory, more, tokenizer_class="LlamaTokenizer", additional_special_tokens=["<turn>"])
    else:
        pytest.importorskip("tiktoken")
        if kind == "tiktoken":
            return f"r50k_base={ranks_file(directory / 'ours.tiktoken')}"
        ranks_file(directory / "tokenizer.model")
        special = {"<s>": 300, "</s>": 301, "<|im_end|>": 302}
        said = {"kind": "tiktoken", "files": ["tokenizer.model"], "pattern": PATTERN, "special_tokens": special}
        (directory / DESCRIPTION).write_text(json.dumps({**said, "eos": "</s>", "bos": "<s>", "puts_first": "<s>"}))
    return str(directory)


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def named(kind, tmp_path) -> str:
    """The value of `--tokenizer`."""
    return make(kind, tmp_path / "made")
