"""Where commands write: an empty `--out` is no directory, least of all the current one."""

from __future__ import annotations

import pytest

from mixstream_tools.cli import main


@pytest.mark.parametrize(
    "words",
    [
        "select random data --fraction 0.5",
        "select import table.parquet --dataset data --key id",
        "select overlap data --target other",
        "embed data --model m",
        "prune run --emb emb --side hard --fraction 0.5",
        "pack data --seq-len 8",
        "convert data",
        "reshard data",
        "merge data",
        "demo",
        "demo selection",
    ],
)
@pytest.mark.parametrize("out", ["", "  "])
def test_an_empty_out_is_wrong_use_and_nothing_is_written(words, out, capsys, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), f"--out={out}"]) == 2
    told = capsys.readouterr().err
    assert "--out: it is empty: give a directory" in told or "--out is empty: give a directory" in told, told
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]
