"""Tokens → text: the right tokenizer, or a refusal."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream_tools.shared.token_texts import TokenizerFile, text_of_bytes, tokenizer_of


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_bytes_become_the_documents_again(documents) -> None:
    ids = [token for text in documents for token in (*text.encode(), 256)]
    assert text_of_bytes(ids, end="\x00") == "".join(text + "\x00" for text in documents)
    assert text_of_bytes(np.array(ids, dtype=np.uint16)) == "".join(text + "\n" for text in documents)


def test_strange_ids_are_marked() -> None:
    assert text_of_bytes([72, 300, -1, 72]) == "H\ufffd\ufffdH"
    assert text_of_bytes([]) == ""
    assert text_of_bytes([0xE2, 0x82]) == "\ufffd"  # a row may end inside a character


@pytest.fixture
def tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"red": 0, "green": 1, "<end>": 2, "[UNK]": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<end>"])
    made.enable_truncation(1)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_tokenizer_file_decodes_and_counts(tokenizer) -> None:
    found = TokenizerFile.find(str(tokenizer.parent))
    assert found == TokenizerFile.find(str(tokenizer))
    assert found.hash == hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    assert found.load()(np.array([0, 1, 2, 0])) == "red green red"
    assert found.load(special=True)([0, 2]) == "red <end>"
    assert found.load_counter()(["red green", "", "red blue red"]).tolist() == [3, 1, 4]
    assert TokenizerFile.find("bytes").load_counter()(["é", ""]).tolist() == [3, 1]


def test_a_file_that_changed_meanwhile_is_refused(tokenizer) -> None:
    found = TokenizerFile.find(str(tokenizer))
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    with pytest.raises(ConfigError, match="has changed since this command began"):
        found.load()


def test_the_tokenizer_of_a_dataset(tokenizer) -> None:
    found, plain = TokenizerFile.find(str(tokenizer)), TokenizerFile.find("bytes")
    assert tokenizer_of({"tokenizer": {"hash": "bytes"}}, None, domain="web") == plain
    assert tokenizer_of({"tokenizer": {"name": "ours", "hash": found.hash}}, found, domain="web") == found
    assert tokenizer_of({}, found, domain="web") == found
    with pytest.raises(ConfigError, match=r"was tokenised with 'ours': give that tokenizer\.json with --tokenizer"):
        tokenizer_of({"tokenizer": {"name": "ours", "hash": found.hash}}, None, domain="web")
    with pytest.raises(ConfigError, match="does not say which tokenizer"):
        tokenizer_of({}, None, domain="web")
    with pytest.raises(ConfigError, match=r"was made with 'ours' .*its text would be wrong"):
        tokenizer_of({"tokenizer": {"name": "ours", "hash": "f00"}}, found, domain="web")
    with pytest.raises(ConfigError, match="its text would be wrong"):
        tokenizer_of({"tokenizer": {"name": "bytes", "hash": "bytes"}}, found, domain="web")


def test_a_tokenizer_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"--tokenizer .*give `bytes` or a tokenizer\.json"):
        TokenizerFile.find(str(tmp_path))
