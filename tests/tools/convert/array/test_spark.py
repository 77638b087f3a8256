"""The Spark recipes of docs/shards.md, with a stand-in for Spark.

What they call of it is `SparkContext.parallelize`, `RDD.foreachPartition` and `RDD.mapPartitionsWithIndex`; here each
partition runs in turn, the first one twice, as Spark repeats tasks. Nothing is said of Spark's own pickling.
"""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mixstream_tools.cli import main

PAGE = (Path(__file__).parents[4] / "docs/shards.md").read_text()


class Rdd:
    def __init__(self, partitions):
        self._partitions = partitions

    def foreachPartition(self, act):
        for partition in [self._partitions[0], *self._partitions]:
            act(iter(partition))

    def mapPartitionsWithIndex(self, act):
        return Rdd([list(act(at, iter(rows))) for at, rows in [(0, self._partitions[0]), *enumerate(self._partitions)]])

    def collect(self):
        return [row for partition in self._partitions for row in partition]


def recipe(line: str) -> str:
    """The block of the page that has this line."""
    (code,) = [code for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if line in code]
    return code


@pytest.fixture
def run_here(monkeypatch):
    """`subprocess.run(["mixstream", …], check=True)` in this process."""
    ran = []

    def run(command, *, check):
        assert (command[0], check) == ("mixstream", True)
        ran.append(command)
        assert main([*command[1:], "--workers", "1"]) == 0

    monkeypatch.setattr(subprocess, "run", run)
    return ran


def test_each_partition_converts_one_part(write_tree, tmp_path, run_here, snapshot):
    source = write_tree({f"crawl/{at}.txt": f"document {at} " * 300 for at in range(8)})
    code = recipe("def convert_parts").replace("/data/crawl", str(source / "crawl"))
    code = code.replace("s3://corpora/v1", str(tmp_path / "out")).replace("PARTS = 64", "PARTS = 4")
    context = SimpleNamespace(parallelize=lambda items, parts: Rdd([[item] for item in items]) if parts == 4 else None)
    exec(code, {"spark": SimpleNamespace(sparkContext=context)})
    assert [command[-1] for command in run_here] == ["0/4", "0/4", "1/4", "2/4", "3/4", "4"]
    assert main(["convert", str(source / "crawl"), "--out", str(tmp_path / "whole"), "--workers", "1"]) == 0
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_each_partition_writes_its_rows(tmp_path, read_rows):
    rows = np.arange(7 * 512).reshape(7, 512) % 60000
    frame = SimpleNamespace(rdd=Rdd([[{"tokens": row.tolist()} for row in part] for part in (rows[:3], rows[3:])]))
    exec(recipe("def write_rows").replace("s3://corpora/rows/train", str(tmp_path / "rows")), {"frame": frame})
    np.testing.assert_array_equal(read_rows(tmp_path / "rows"), rows)
