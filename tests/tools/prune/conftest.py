"""What the tests of `mixstream prune` share: datasets with embeddings and scores, and running a command."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixstream import MDSWriter
from mixstream.formats import parse_index
from mixstream.selection import Column, Scores, ScoresWriter, ShardTable, provenance
from mixstream_tools.cli import main

sys.path.append(str(Path(__file__).parents[2] / "mixstream" / "selection" / "prototypes"))

from corpus import make_corpus  # pyright: ignore[reportMissingImports] - the path is set above


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def prune(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run `mixstream prune … --json` in this process; returns status, document, stderr."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        status = main(["prune", *map(str, arguments), "--json"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., ShardTable]:
    """Write a dataset of given columns, [rows, …] each, in shards of about `size` bytes; returns its shard table."""

    def write(place: Path, columns: Mapping[str, np.ndarray], *, size: int = 1 << 12) -> ShardTable:
        encodings = {
            name: f"ndarray:{each.dtype}:{each.shape[1]}" if each.ndim > 1 else "int" for name, each in columns.items()
        }
        with MDSWriter(out=str(place), columns=encodings, size_limit=size, hashes=["xxh64"]) as writer:
            for row in range(len(next(iter(columns.values())))):
                writer.write({name: each[row] if each.ndim > 1 else int(each[row]) for name, each in columns.items()})
        return ShardTable.of(parse_index((place / "index.json").read_bytes(), where=str(place)).shards)

    return write


@pytest.fixture(scope="session")
def write_scores() -> Callable[..., Scores]:
    """Write scores, as `mixstream embed` writes embeddings."""

    def write(
        place: Path,
        table: ShardTable,
        columns: Mapping[str, np.ndarray],
        *,
        embedder: object = "a model",
        flags: np.ndarray | None = None,
        domain: str | None = None,
    ) -> Scores:
        made = provenance({"embedder": embedder})
        described = [Column(name=name, dtype=each.dtype.str, shape=each.shape[1:]) for name, each in columns.items()]
        name = place.name if domain is None else domain
        with ScoresWriter(place, domain=name, table=table, columns=described, made=made) as writer:
            writer.write(0, columns, flags=flags)
        return Scores.open(place)

    return write


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory, write_dataset, write_scores) -> Path:
    """Return a directory with datasets and embeddings of two domains; read only.

    `web` has 600 originals, 150 near-duplicates and 50 copies of a template; its rows 5 and 6 have no embedding. `code`
    has 200 originals and nothing else.
    """
    top = tmp_path_factory.mktemp("corpora")
    for name, sizes in (("web", (600, 150, 50)), ("code", (200, 0, 0))):
        made = make_corpus(len(name), originals=sizes[0], copies=sizes[1], template=sizes[2], d=32)
        rows = len(made.vectors_ND)
        table = write_dataset(top / "shards" / name, {"tokens": np.arange(rows * 4, dtype=np.int32).reshape(rows, 4)})
        assert len(table.shards) > 1 or name == "code"
        flags = np.ones(rows, dtype=np.uint8)
        if name == "web":
            flags[5:7] = 2
        tokens = np.random.default_rng(0).integers(1, 50, rows).astype(np.uint32)
        np.save(top / f"{name}.group.npy", made.group_N)
        write_scores(top / "emb" / name, table, {"embedding": made.vectors_ND, "n_tokens": tokens}, flags=flags)
    return top


@pytest.fixture(scope="session")
def scored(corpora: Path) -> Path:
    """Return the same with `prototypes` and `scores`; read only: tests that add columns copy it."""
    common = ["--emb", str(corpora / "emb")]
    assert not main(["prune", "fit", *common, "--out", str(corpora / "prototypes"), "--k", "16", "--json"])
    assert not main(
        [
            *("prune", "assign", *common, "--prototypes", str(corpora / "prototypes")),
            *("--out", str(corpora / "scores"), "--parts", "1", "--json"),
        ]
    )
    return corpora
