"""Tables from start to end: one result for any number of parts and after every kill, on disk and in a store."""

import json
import os
import random
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer

TEXTS = [f"document {at} of a table, é\n" * (at % 9 + 1) for at in range(400)]


def recipe(**options) -> Recipe:
    fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text"), "seq_len": 16, "part_bytes": 4000}
    return Recipe(**{**fixed, **options})


@pytest.fixture
def source(tmp_path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    rows = pa.table({"id": range(len(TEXTS)), "text": TEXTS})
    pq.write_table(rows, directory / "a.parquet", row_group_size=30)
    with pa.ipc.new_stream(directory / "b.arrow", rows.schema) as writer:
        writer.write_table(rows, max_chunksize=30)
    with pa.ipc.new_file(directory / "c.feather", rows.schema) as writer:
        writer.write_table(rows, max_chunksize=30)
    lines = [f'{at},"{text}"' for at, text in enumerate(TEXTS)]
    (directory / "d.csv").write_text("id,text\n" + "\n".join(lines) + "\n")
    return directory


def convert(source, out, made=None, **options):
    return run_conversion([f"tables={source}"], out=out, recipe=made or recipe(), **options)


def test_every_part_size_gives_every_document_once(source, tmp_path, read_rows, expected_rows):
    for part_bytes in (7777, None):
        out = tmp_path / str(part_bytes)
        summary = convert(source, out, recipe(part_bytes=part_bytes))
        assert summary["domains"]["tables"]["train"]["documents"] == 4 * len(TEXTS)
    assert (read_rows(tmp_path / "None/tables/train") == expected_rows(TEXTS * 4, 16)).all()


KILLER = """
import os, signal, sys, time
from pathlib import Path
from test_tables import convert
source, base = Path(sys.argv[1]), Path(sys.argv[2])
def run(out, delay):
    pid = os.fork()
    if not pid:
        convert(source, out)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
start = time.monotonic()
assert run(base / "whole", None) == 0
took = time.monotonic() - start
killed = sum(run(base / "killed", took * (at + 0.5) / 3) != 0 for at in range(3))
assert run(base / "killed", None) == 0
print(killed)
"""


def test_kill_at_any_instant(source, tmp_path, snapshot, warm_programs):
    command = [warm_programs / "python", "-c", KILLER, str(source), str(tmp_path)]
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


def test_tables_in_a_store_are_read_by_ranges(tmp_path, s3, proxy, snapshot):
    """Of a table of 8 MB with one column of text and one of bytes, only the text is fetched."""
    directory = tmp_path / "source"
    directory.mkdir()
    noise = random.Random(1).randbytes
    rows = pa.table({"text": TEXTS[:50], "image": [noise(160_000) for _ in range(50)]})
    pq.write_table(rows, directory / "a.parquet", compression="none", use_dictionary=False)
    small = pa.table({"text": TEXTS})
    with pa.ipc.new_stream(directory / "b.arrow", small.schema) as writer:
        writer.write_table(small, max_chunksize=30)
    (directory / "state.json").write_text(json.dumps({"_data_files": [{"filename": "b.arrow"}]}))
    s3.upload(directory)
    made = recipe(part_bytes=None)
    convert(directory, tmp_path / "local", made)
    sent = proxy.sent("*/a.parquet")
    convert(s3.url, tmp_path / "stored", made)
    # A head, a footer and a column of 8 KB, each of which takes a request of 1 MiB; twice, as it is looked at before.
    assert proxy.sent("*/a.parquet") - sent < 5 << 20
    local, stored = (snapshot(tmp_path / name / "tables") for name in ("local", "stored"))
    assert stored == local
