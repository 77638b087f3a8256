"""Datasets at URLs get the names that their domains have in training."""

from pathlib import Path

import pytest

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream_tools.cli import main
from mixstream_tools.shared.domains import find_domains


def write(directory: Path) -> Path:
    with ms.MDSWriter(out=str(directory), columns={"text": "str"}) as writer:
        writer.write({"text": "red"})
    return directory


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("domains")
    for name in ("web/train", "web/val", "code/train", "plain"):
        write(root / "shards" / name)
    write(root / "alone" / "train")
    return root / "shards"


def found(*urls: object, **options: str) -> dict[str, str]:
    return {each.name: each.url for each in find_domains([str(url) for url in urls], **options)}


def test_a_directory_above_domains(shards) -> None:
    assert found(shards) == {
        "code": f"{shards}/code/train",
        "plain": f"{shards}/plain",
        "web": f"{shards}/web/train",
    }
    assert found(shards, split="val") == {"plain": f"{shards}/plain", "web": f"{shards}/web/val"}


def test_a_dataset_itself_and_a_domain_with_splits(shards) -> None:
    assert found(shards / "plain") == {"plain": f"{shards}/plain"}
    assert found(shards / "web" / "train") == {"web": f"{shards}/web/train"}
    assert found(shards / "web" / "val") == {"val": f"{shards}/web/val"}
    assert found(shards / "code", f"other={shards}/web") == {
        "code": f"{shards}/code/train",
        "other": f"{shards}/web/train",
    }


def test_a_converted_dataset_says_its_own_name(tmp_path) -> None:
    (tmp_path / "src.txt").write_text("red green blue " * 50)
    assert (
        main(["convert", f"books={tmp_path}/src.txt", "--out", f"{tmp_path}/s", "--seq-len", "16", "--workers", "1"])
        == 0
    )
    (tmp_path / "s" / "books" / "train").rename(tmp_path / "copy")
    (domain,) = find_domains([str(tmp_path / "copy")])
    assert domain.name == "books"
    assert domain.about["tokenizer"]["hash"] == "bytes"


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        ([], "no URL is given"),
        (["{}", "web={}/plain"], "two domains are called 'web'"),
        (["one={}"], "one names one; give its own URL"),
        (["{}/missing"], "no such directory"),
        (["..={}/plain"], "cannot be the name of a directory"),
    ],
)
def test_what_is_ambiguous_is_refused(shards, urls, told) -> None:
    with pytest.raises(ConfigError, match=told):
        find_domains([url.format(shards) for url in urls])


def test_a_split_that_is_not_there_is_refused(shards) -> None:
    with pytest.raises(ConfigError, match="none is DOMAIN/test; give another --split"):
        find_domains([str(shards / "web")], split="test")
