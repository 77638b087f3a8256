"""What the tests of `mixstream select` share: small datasets, scores over them, and running the commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixstream import MDSWriter
from mixstream.formats import parse_index
from mixstream.selection import Column, Scores, ScoresWriter, ShardTable, provenance
from mixstream_tools.cli import main


@pytest.fixture
def write_texts(tmp_path: Path) -> Callable[..., Path]:
    """Write texts as a dataset of rows with a text and an id, `per_shard` in a shard; returns its directory."""
    return texts_below(tmp_path)


@pytest.fixture
def write_scores(tmp_path: Path) -> Callable[..., Path]:
    """Write columns as scores over a dataset, or over shards of given sizes; returns the directory."""
    return scores_below(tmp_path)


@pytest.fixture(scope="session")
def write_below() -> Callable[[Path], tuple[Callable[..., Path], Callable[..., Path]]]:
    """Return `write_texts` and `write_scores` for a directory that outlives a test."""
    return lambda top: (texts_below(top), scores_below(top))


def texts_below(top: Path) -> Callable[..., Path]:
    def write(name: str, texts: Sequence[str], *, per_shard: int = 4, ids: Sequence[str] | None = None) -> Path:
        place = top / name
        ids = ids or [f"{name}-{at}" for at in range(len(texts))]
        shards = []
        for at in range(0, len(texts), per_shard):
            folder = place / f"part{at // per_shard:03}"
            with MDSWriter(out=str(folder), columns={"text": "str", "id": "str"}, hashes=["xxh3_64"]) as writer:
                for text, key in zip(texts[at : at + per_shard], ids[at : at + per_shard]):
                    writer.write({"text": text, "id": key})
            index = json.loads((folder / "index.json").read_text())
            for shard in index["shards"]:
                shard["raw_data"]["basename"] = f"{folder.name}/{shard['raw_data']['basename']}"
                shards.append(shard)
            (folder / "index.json").unlink()
        (place / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
        return place

    return write


def scores_below(top: Path) -> Callable[..., Path]:
    def write(
        path: str,
        columns: Mapping[str, Any],
        *,
        dataset: Path | None = None,
        samples: Sequence[int] = (),
        domain: str = "web",
        better: bool | None = True,
        flags: Any = None,
        **facts: Any,
    ) -> Path:
        place = top / path
        if dataset is not None:
            index = parse_index((dataset / "index.json").read_bytes(), where="index.json")
            table = ShardTable.of(index.shards)
            facts["dataset"] = str(dataset)
        else:
            from mixstream.selection import ShardIdentity

            table = ShardTable(
                shards=tuple(
                    ShardIdentity(name=f"shard.{at:05}.mds", samples=rows, raw_bytes=100 * rows)
                    for at, rows in enumerate(samples or [len(next(iter(columns.values())))])
                )
            )
        arrays = {name: np.asarray(values) for name, values in columns.items()}
        kinds = [
            Column(
                name=name,
                dtype=values.dtype.str,
                shape=values.shape[1:],
                higher_is_better=better if values.dtype.kind == "f" else None,
            )
            for name, values in arrays.items()
        ]
        made = provenance({"test": path}, **facts)
        with ScoresWriter(place, domain=domain, table=table, columns=kinds, made=made) as writer:
            writer.write(0, arrays, flags=flags)
        Scores.open(place)
        return place

    return write


@pytest.fixture
def select(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run `mixstream select … --json`; returns status and document."""

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = main(["select", *map(str, arguments), "--json"])
        said = capsys.readouterr()
        return status, json.loads(said.out, parse_constant=pytest.fail)

    return run


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `mixstream select …`; returns what people see, which holds nothing but text."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        main(["select", *map(str, arguments)])
        said = capsys.readouterr()
        assert (said.out + said.err).replace("\n", "").isprintable()
        return said.out + said.err

    return run
