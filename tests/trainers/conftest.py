"""`make test-trainers`: what is needed of trainers that cannot be installed beside the rest.

The gate's environment lacks them, so it does not collect this directory. Programs that train run as processes of their
own under torchrun, as users start them: `train` runs one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # so that tests find the modules beside them
collect_ignore_glob = [] if importlib.util.find_spec("torchtitan") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory; on a busy machine, several jobs of four processes take minutes."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.trainers)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of two domains of real text in bytes, rows of 257: these docs, and this library's code."""
    root = tmp_path_factory.mktemp("corpus")
    top = HERE.parents[1]
    for domain, pattern in (("web", "docs/*.md"), ("code", "mixstream/loader/*.py")):
        (root / domain).mkdir()
        for path in top.glob(pattern):
            (root / domain / f"{path.stem}.txt").write_text(path.read_text())
    command = ["mixstream", "convert", f"web={root}/web/", f"code={root}/code/", "--out", str(root / "shards")]
    run([*command, "--seq-len", "257", "--val-fraction", "0.1", "--size-limit", "64kb"])
    return root / "shards"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the directory of a tokenizer for torchtitan, which wants one: bytes and an end of text."""
    root = tmp_path_factory.mktemp("tokenizer")
    from tokenizers import Tokenizer, models

    tokens = Tokenizer(models.BPE(vocab={chr(0x100 + i): i for i in range(256)} | {"<eos>": 256}, merges=[]))
    tokens.add_special_tokens(["<eos>"])
    tokens.save(str(root / "tokenizer.json"))
    (root / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    return str(root)


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one of this environment's commands to its end; raise with its output if it fails."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a program of this directory under torchrun and returns what it printed.

    `killed` says that the program is to end by SIGKILL; then its failure is expected.
    """

    def train(program: str, *, ranks: int = 1, killed: bool = False, path: str = "", **given: Any) -> str:
        command = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", str(ranks)]
        python_path = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(
            [*command, str(HERE / program), json.dumps(given)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        if killed:
            assert "SIGKILL" in done.stdout, done.stdout[-6000:]
        else:
            assert done.returncode == 0, f"{program} ended with {done.returncode}:\n{done.stdout[-8000:]}"
        return done.stdout

    return train
