"""Data cards and the copy of the tokenizer go along with reshard and merge, as far as they stay true."""

import hashlib
import json

import pytest

from mixstream_tools.cli import main
from mixstream_tools.shared.cards import read_card, read_dataset_card


def run(*arguments) -> None:
    assert main([*map(str, arguments)]) == 0


@pytest.fixture
def outputs(write_tree, tmp_path):
    """Two outputs: web with a reject and code, of a tokenizer of their own; and books."""
    lines = "".join(json.dumps({"text": f"{at} and more " * (at % 9 + 1)}) + "\n" for at in range(40))
    source = write_tree({"web.jsonl": lines + "no JSON\n", "code.jsonl": lines, "books.jsonl": lines})
    common = ("--seq-len", 8, "--workers", 1, "--on-bad-document", "skip", "--eos", "<|endoftext|>")
    run("convert", source / "books.jsonl", "--out", tmp_path / "two", "--train-bpe", 300, *common)
    trained = ("--tokenizer", tmp_path / "two/tokenizer/tokenizer.json")
    run("convert", source / "web.jsonl", source / "code.jsonl", "--out", tmp_path / "one", *trained, *common)
    return tmp_path / "one", tmp_path / "two"


def check(out, datasets: dict[str, bool], rejects: int) -> None:
    """Compare the card of an output with its indexes, and its copy of the tokenizer with the card."""
    card = read_card((out / "card.json").read_bytes())
    assert sorted(f"{each.domain}/{each.split}" for each in card.datasets) == [n for n, has in datasets.items() if has]
    assert sorted(f"{domain}/{split}" for domain, split in card.without) == [
        n for n, has in datasets.items() if not has
    ]
    for each in card.datasets:
        place = out / each.domain / each.split
        assert each.matches(json.loads((place / "index.json").read_bytes())["mixstream"])
        assert read_dataset_card((place / "card.json").read_bytes()) == each
    assert card.rejects["documents"] == rejects
    assert "files" not in card.rejects
    copies = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "tokenizer").iterdir()}
    assert "tokenizer.json" in copies
    assert copies == card.tokenizer_files


def test_resharded_datasets_keep_their_cards_and_inspect_shows_their_text(outputs, tmp_path, capsys):
    run("reshard", outputs[0], "--out", tmp_path / "new", "--size-limit", "1kb", "--workers", 1)
    check(tmp_path / "new", {"code/train": True, "web/train": True}, rejects=1)
    capsys.readouterr()
    run("inspect", tmp_path / "new")
    assert "and more" in capsys.readouterr().out
    run("reshard", tmp_path / "new/web/train", "--out", tmp_path / "alone", "--shuffle-seed", 1, "--workers", 1)
    assert read_dataset_card((tmp_path / "alone/card.json").read_bytes()).domain == "web"
    run("reshard", outputs[0] / "code/train", "--out", tmp_path / "alone", "--overwrite", "--workers", 1)
    assert read_dataset_card((tmp_path / "alone/card.json").read_bytes()).domain == "code"


def test_merged_outputs_keep_the_cards_of_what_was_not_joined(outputs, tmp_path):
    run("merge", *outputs, "--out", tmp_path / "all")
    check(tmp_path / "all", {"books/train": True, "code/train": True, "web/train": True}, rejects=1)
    run("reshard", outputs[0], "--out", tmp_path / "again", "--workers", 1)
    run("merge", tmp_path / "again", outputs[0], tmp_path / "two", "--same-domain", "join", "--out", tmp_path / "all",
        "--overwrite")  # fmt: skip
    check(tmp_path / "all", {"books/train": True, "code/train": False, "web/train": False}, rejects=2)
    assert not (tmp_path / "all/web/train/card.json").exists()


def test_a_card_of_another_state_is_not_carried(outputs, tmp_path):
    (outputs[0] / "web/train/card.json").write_bytes((outputs[0] / "code/train/card.json").read_bytes())
    (outputs[0] / "tokenizer/tokenizer.json").write_text("{}")
    run("reshard", outputs[0], "--out", tmp_path / "new", "--workers", 1)
    card = read_card((tmp_path / "new/card.json").read_bytes())
    assert [each.domain for each in card.datasets] == ["code"]
    assert card.without == (("web", "train"),)
    assert not (tmp_path / "new/tokenizer").exists()
