"""LLM Foundry 0.22 trains on mixstream without an edit: datasets, collators, packing, YAML, callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mixstream as ms

PROGRAM = "foundry_program.py"
STUBS = str(Path(__file__).with_name("stubs"))
END = 256


@pytest.fixture
def foundry(train: Callable[..., str], tmp_path: Path) -> Callable[..., None]:
    """Return a function that does runs, by name, one after the other in one program."""

    def foundry(runs: dict[str, dict[str, Any]], **shared: Any) -> None:
        each = [{**shared, **run, "out": str(tmp_path / name)} for name, run in runs.items()]
        for run in each:
            if "load" in run:
                run["load"] = str(tmp_path / run["load"])
        train(PROGRAM, path=STUBS, runs=each)

    return foundry


def text_yaml(corpus: Path, *, workers: int = 2, **options: Any) -> str:
    """Return a text loader as LLM Foundry's YAML files describe it."""
    lines = "\n".join(f"  {name}: {value}" for name, value in options.items())
    return f"""
device_batch_size: 4
drop_last: true
num_workers: {workers}
pin_memory: false
prefetch_factor: {2 if workers else "null"}
persistent_workers: {str(bool(workers)).lower()}
dataset:
  streams:
    web: {{remote: {corpus}/web, local: null, split: train, proportion: 0.5}}
    code: {{remote: {corpus}/code, local: null, split: train, proportion: 0.5}}
  shuffle: true
  shuffle_seed: 17
  max_seq_len: 257
  epoch_size: 20
  eos_token_id: {END}
  sampling_method: balanced
  sampling_granularity: 1
  batching_method: random
  partition_algo: relaxed
  num_canonical_nodes: 1
  predownload: 64
{lines}
"""


def batches(out: Path) -> dict[int, Any]:
    """Return what each batch held, by Composer's count."""
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return {line["batch"]: line["rows"] for line in lines}


def plain(corpus: Path, count: int, **options: Any) -> list[list[list[int]]]:
    """Return the batches of a plain loop, in the order that `mixstream.compat.install()` gives its datasets."""
    streams = [ms.Stream(remote=str(corpus / name), split="train", proportion=0.5) for name in ("web", "code")]
    dataset = ms.StreamingDataset(
        **{
            "streams": streams,
            "batch_size": 4,
            "shuffle": True,
            "shuffle_seed": 17,
            "epoch_size": 20,
            "order": "mosaic",
            **options,
        }
    )
    found: list[list[list[int]]] = []
    with ms.Loader(dataset) as loader:
        while len(found) < count:
            found += [batch["tokens"].tolist() for batch in loader]
    return found[:count]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_text_run_goes_on_from_composers_checkpoints(foundry, corpus, tmp_path, workers) -> None:
    runs = {
        "whole": {"duration": "12ba", "save": "3ba"},
        "after mid": {"duration": "12ba", "load": "whole/checkpoints/ep0-ba3-rank0.pt"},
        "end": {"duration": "1ep", "save": "1ep"},
        "after end": {"duration": "12ba", "load": "end/checkpoints/ep1-ba5-rank0.pt"},
    }
    foundry(runs, kind="text", yaml=text_yaml(corpus, workers=workers))
    expected = plain(corpus, 12)
    for name, (begin, end) in {"whole": (0, 12), "after mid": (3, 12), "end": (0, 5), "after end": (5, 12)}.items():
        assert batches(tmp_path / name) == {batch: expected[batch] for batch in range(begin, end)}


def test_packing_reads_every_example_once_and_goes_on_where_it_stopped(foundry, tmp_path) -> None:
    with ms.MDSWriter(columns={"prompt": "str", "response": "str"}, out=str(tmp_path / "pairs" / "train")) as writer:
        for number in range(96):
            mark = chr(0x100 + 33 + number)
            writer.write({"prompt": mark * (3 + number % 5), "response": mark * 2})
    yaml = f"""
device_batch_size: 2
drop_last: true
num_workers: 0
pin_memory: false
prefetch_factor: null
persistent_workers: false
dataset:
  streams:
    pairs: {{remote: {tmp_path}/pairs, local: null, split: train}}
  shuffle: true
  max_seq_len: 64
  packing_ratio: 4
  decoder_only_format: true
"""
    runs = {
        "whole": {"duration": "12ba", "save": "5ba"},
        "resumed": {"duration": "12ba", "load": "whole/checkpoints/ep0-ba5-rank0.pt"},
    }
    foundry(runs, kind="finetuning", yaml=yaml)
    whole, resumed = batches(tmp_path / "whole"), batches(tmp_path / "resumed")
    assert len(whole) == 12
    assert resumed == {batch: whole[batch] for batch in range(5, 12)}
    marks = [{token for row in rows for token in row} - {END} for rows in whole.values()]
    assert sum(map(len, marks)) == len(set().union(*marks)) >= 90  # the rest did not fit into a packed row


def test_curriculum_learning_swaps_the_data(foundry, corpus, tmp_path) -> None:
    schedule = [{"duration": "1ep", "dataset": {"shuffle_seed": 5}}]
    foundry(
        {"run": {"duration": "2ep", "curriculum": {"duration": "1ep", "schedule": schedule}}},
        kind="text",
        yaml=text_yaml(corpus, workers=0),
    )
    expected = plain(corpus, 5) + plain(corpus, 5, shuffle_seed=5)
    assert batches(tmp_path / "run") == dict(enumerate(expected))
