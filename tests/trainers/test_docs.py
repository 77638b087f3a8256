"""The blocks of docs/trainers.md that the gate cannot run, since their trainers are not installed there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"
STUBS = str(Path(__file__).with_name("stubs"))
BLOCK = re.compile(
    r"<!-- not run: (\S+(?: \S+)?) is not installed beside the rest.*?-->\n```python\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
BLOCKS = dict(BLOCK.findall(PAGE.read_text()))


def test_there_is_a_block_for_each_trainer() -> None:
    assert sorted(BLOCKS) == ["Composer", "LLM Foundry", "torchtitan"]


@pytest.mark.parametrize("trainer", sorted(BLOCKS))
def test_the_block_runs(train: Callable[..., str], corpus: Path, tokenizer: str, tmp_path: Path, trainer: str) -> None:
    (tmp_path / "corpus").symlink_to(corpus)
    path = "" if trainer == "torchtitan" else STUBS
    printed = train("docs_program.py", path=path, trainer=trainer, code=BLOCKS[trainer], tokenizer=tokenizer)
    assert "the block has run" in printed
