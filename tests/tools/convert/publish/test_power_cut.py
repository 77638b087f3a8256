"""What a power cut leaves of a conversion."""

from __future__ import annotations

import pytest
from crash_disk import CrashDisk, names_whole_shards


@pytest.mark.parametrize(
    "rows", [["--seq-len", 16, "--keep", "label"], ["--rows", "documents"]], ids=["packed", "documents"]
)
def test_an_index_names_only_shards_that_are_whole(tmp_path, monkeypatch, convert_json, rows):
    source, index = tmp_path / "a.jsonl", tmp_path / "out/web/train/index.json"
    disk = CrashDisk(monkeypatch, tmp_path, names_whole_shards(index))
    for documents in (60, 61):  # the second takes the place of the first: its tail has the same name
        lines = (f'{{"label": {number}, "text": "document {number:03}"}}\n' for number in range(documents))
        source.write_text("".join(lines))
        words = ["--out", index.parents[2], "--size-limit", "1kb", "--overwrite", *rows]
        assert convert_json(f"web={source}", *words)[0] == 0
        assert disk.surely(index) == index.read_bytes()
        for path in index.parent.rglob("*"):
            disk.surely(path)
        for part in index.parent.glob("part-*"):  # it has no index of its own
            assert disk.may_be.get(part / "index.json", {None}) == {None}
