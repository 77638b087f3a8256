"""`kill -9` at any instant leaves what the next start trusts or replaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artefacts import select, table_of, write_parts

from mixstream.errors import ConfigError, OutputExistsError
from mixstream.selection import Scores, add_columns, discard, merge_scores

SCRIPT = Path(__file__).parents[1] / "selection_crash.py"
TABLE = table_of(5, 7, 3)


def test_killed_before_every_change_to_the_disk(tmp_path, warm_programs):
    done = subprocess.run(
        [warm_programs / "python", str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_what_a_killed_writer_left_is_replaced(tmp_path):
    (tmp_path.parent / "y.npy").write_bytes(b"elsewhere")
    (tmp_path / ".partial/below").mkdir(parents=True)
    (tmp_path / ".partial/counts.npy").write_bytes(b"half of someth")
    (tmp_path / ".partial/manifest.json").write_text('{"files": {"rows.npy": {}, "x.npy": {}, "../y.npy": {}}}')
    for name in ("rows.npy", "x.npy"):
        (tmp_path / name).write_bytes(b"moved, but its manifest was not")
    select(tmp_path, TABLE, [3]).verify()
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "counts.npy", "hashes.npy", "rows.npy"}
    assert (tmp_path.parent / "y.npy").exists()


def test_parts_that_outlived_their_merging_are_removed(tmp_path):
    write_parts(tmp_path / "a", TABLE, np.arange(15.0), parts=2)
    (tmp_path / "a").rename(tmp_path / "b")
    write_parts(tmp_path / "a", TABLE, np.arange(15.0), parts=2)
    merge_scores(tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / "a" / path.name)
    assert merge_scores(tmp_path / "a").merged
    assert not (tmp_path / "a/parts").exists()
    assert Scores.open(tmp_path / "a").column("quality")[14] == 14


def test_merging_twice_at_once_is_refused(tmp_path, monkeypatch):
    write_parts(tmp_path, TABLE, np.arange(15.0), parts=2)
    from mixstream.selection.staging import StagedFiles

    with StagedFiles(tmp_path), pytest.raises(ConfigError, match="being written by another"):
        merge_scores(tmp_path)
    assert merge_scores(tmp_path).merged


def test_files_of_others_are_neither_replaced_nor_removed(tmp_path):
    (tmp_path / "mine.npy").write_bytes(b"mine")
    (tmp_path / "rows.npy").write_bytes(b"mine, too")
    with pytest.raises(OutputExistsError, match=r"rows.npy exists and is not of an artefact"):
        select(tmp_path, TABLE, [3], overwrite=True)
    assert (tmp_path / "rows.npy").read_bytes() == b"mine, too"
    (tmp_path / "rows.npy").unlink()
    write_parts(tmp_path, TABLE, np.ones(15))
    write_parts(tmp_path, TABLE, np.arange(15.0), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "flags.npy", "quality.npy", "mine.npy"}
    with pytest.raises(OutputExistsError, match=r"mine.npy exists"):
        add_columns(tmp_path, {"mine": np.arange(15)}, {"inputs": {}})
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npy"]


def test_directories_of_others_beside_the_parts_stay(tmp_path):
    mine = tmp_path / "parts/of mine/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    write_parts(tmp_path, TABLE, np.arange(15.0), parts=2)
    assert merge_scores(tmp_path).merged
    merge_scores(tmp_path)
    discard(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["parts", "of mine", "notes.txt"]


def test_an_artefact_of_another_kind_is_not_replaced(tmp_path):
    """Scores may have taken days; a selection of them that is given their own place by mistake is refused."""
    write_parts(tmp_path, TABLE, np.arange(15.0))
    with pytest.raises(OutputExistsError, match=r"artefact of another kind \(mixstream.scores\)"):
        select(tmp_path, TABLE, [3], overwrite=True)
    Scores.open(tmp_path).verify()
    write_parts(tmp_path, TABLE, np.ones(15), parts=2, overwrite=True)
    assert merge_scores(tmp_path).column("quality").tolist() == [1.0] * 15


@pytest.mark.parametrize("text", ['{"name": "an extension", "files": ["mine.npy"]}', "[1]", '{"format": 3}'])
def test_the_manifest_of_another_program_is_neither_replaced_nor_removed(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "mine.npy").write_bytes(b"mine")
    for change in (lambda: select(tmp_path, TABLE, [3], overwrite=True), lambda: discard(tmp_path)):
        with pytest.raises(OutputExistsError, match=r"manifest.json is of another program"):
            change()
    assert (tmp_path / "manifest.json").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "mine.npy"]


FORKED = """
import os, sys, time
from pathlib import Path
from mixstream.selection.staging import StagedFiles
staged = StagedFiles(Path(sys.argv[1]))
ready, begun = os.pipe()
if child := os.fork():
    os.read(ready, 1)  # the child runs now, so it has let go of what it inherited
    print(child, flush=True)
    os.kill(os.getpid(), 9)
staged.close()
os.write(begun, b".")
time.sleep(60)
"""


def test_a_child_keeps_no_lock_of_a_parent_that_was_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", FORKED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.wait(30)
        assert (tmp_path / ".partial").is_dir()  # the child did not remove its parent's files
        select(tmp_path, TABLE, [3]).verify()
        os.kill(child, 0)
    finally:
        os.kill(child, 9)
        parent.stdout.close()
