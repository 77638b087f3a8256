"""An interrupted conversion is said to be unfinished by all that open it, and none of it passes for the whole."""

import json
from pathlib import Path

import pytest

import mixstream as ms
from mixstream.errors import IndexNotFoundError, UnfinishedError
from mixstream_tools.cli import main
from mixstream_tools.convert import build

SAID = r"unfinished, {} of 6 parts; run convert again"
convert_part = build.convert_part


@pytest.fixture
def source(write_tree):
    return write_tree({f"{name}/{at}.txt": f"{name} {at} " * 500 for name in ("web", "code") for at in range(3)})


@pytest.fixture
def convert(source, monkeypatch, capsys):
    """Convert both domains; stop at a part, as a signal would."""
    monkeypatch.setattr("mixstream_tools.convert.parts._LEAST", 4000)

    def run(out, *, stop: int | None = None) -> int:
        left = [stop]

        def interrupted(task, report):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] = None if left[0] is None else left[0] - 1
            return convert_part(task, report)

        monkeypatch.setattr(build, "convert_part", interrupted)
        status = main(["convert", str(source), "--out", str(out), "--seq-len", "16", "--workers", "1"])
        capsys.readouterr()
        return status

    return run


@pytest.mark.parametrize("below", ["", "/", "/web", "/web/train", "/code"])
def test_every_command_says_it_and_fails(convert, tmp_path, capsys, below):
    place = f"{tmp_path / 'out'}{below}"
    assert convert(tmp_path / "out", stop=5) == 130
    said = SAID.format(5).replace(r"\.", ".")
    for command in (["verify", place], ["verify", "--quick", place], ["inspect", place], ["plan", "--data", place]):
        assert main([*command, "--json"]) == 1
        told = capsys.readouterr()
        assert said in told.out, command
        assert json.loads(told.out)["status"] != "ok"
        assert main(command) == 1
        told = capsys.readouterr()
        assert "unfinished" in told.out + told.err
    assert convert(tmp_path / "out") == 0
    for command in (["verify"], ["inspect"]):
        assert main([*command, place]) == 0
        assert "unfinished" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", ["out", "out/web", "out/code/train", "out/web/train/part-00001"])
def test_no_dataset_opens_it(convert, tmp_path, name):
    convert(tmp_path / "out", stop=5)
    with pytest.raises(UnfinishedError, match=SAID.format(5)):
        ms.StreamingDataset(remote=str(tmp_path / name), batch_size=1)
    with pytest.raises(UnfinishedError, match=SAID.format(5)):
        ms.StreamingDataset(remote=str(tmp_path / name), local=str(tmp_path / "cache"), batch_size=1)
    with pytest.raises(UnfinishedError, match=SAID.format(5)):
        ms.StreamingDataset(local=str(tmp_path / name), batch_size=1)
    with pytest.raises(UnfinishedError, match=SAID.format(5)):
        ms.streams(str(tmp_path / "out"))


def test_a_part_is_no_dataset_even_with_an_index_of_its_own(convert, tmp_path, capsys):
    """Parts that an earlier version wrote have one."""
    convert(tmp_path / "out", stop=5)
    part = tmp_path / "out/web/train/part-00001"
    assert not (part / "index.json").exists()
    with ms.MDSWriter(out=part, columns={"x": "int"}, exist_ok=True) as writer:
        writer.write({"x": 1})
    with pytest.raises(UnfinishedError, match=r"part-00001 is a part of the dataset web/train.*unfinished"):
        ms.StreamingDataset(remote=str(part), batch_size=1)
    for place in (tmp_path / "out", part):
        assert main(["verify", str(place), "--json"]) == 1
        assert SAID.format(5) in capsys.readouterr().out
    convert(tmp_path / "out")
    with ms.MDSWriter(out=part, columns={"x": "int"}, exist_ok=True) as writer:
        writer.write({"x": 1})
    with pytest.raises(UnfinishedError, match=r"read all of it: Stream\(remote='.*/out/web', split='train'\)"):
        ms.StreamingDataset(remote=str(part), batch_size=1)


def test_a_domain_that_is_whole_is_read_while_another_is_converted(convert, source, tmp_path, capsys):
    convert(tmp_path / "out")
    (source / "code" / "more.txt").write_text("more " * 1000)
    arguments = [
        "convert",
        str(source),
        "--out",
        str(tmp_path / "out"),
        "--seq-len",
        "16",
        "--overwrite",
        "--workers",
        "1",
    ]
    record = tmp_path / "out/.convert/published.json"
    groups = json.loads(record.read_bytes())
    groups.pop("code")
    record.write_text(json.dumps(groups))  # as if the command had been killed
    (tmp_path / "out/domains.json").unlink()
    (tmp_path / "out/code/train/index.json").unlink()
    assert ms.StreamingDataset(remote=str(tmp_path / "out/web"), split="train", batch_size=1).epoch_size > 0
    with pytest.raises(UnfinishedError):
        ms.streams(str(tmp_path / "out"), split="train")
    for below, status in {"": 1, "code": 1, "web": 0, "web/train": 0}.items():
        assert main(["verify", str(tmp_path / "out" / below)]) == status
    assert main(arguments) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_an_upload_that_is_not_at_its_end(convert, tmp_path, s3, capsys):
    convert(tmp_path / "out")
    objects = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.*")}
    for name in [".convert/run.json", *(name for name in objects if ".mds" in name and "00002" not in name)]:
        s3.put(name, objects[name].read_bytes() if name in objects else (tmp_path / "out" / name).read_bytes())
    for place in (s3.url, f"{s3.url}/web", f"{s3.url}/web/train"):
        for command in ("verify", "inspect"):
            assert main([command, place, "--json"]) == 1
            assert SAID.format(4) in capsys.readouterr().out
        with pytest.raises(UnfinishedError, match=SAID.format(4)):
            ms.StreamingDataset(remote=place, batch_size=1)
    with pytest.raises(UnfinishedError, match=SAID.format(4)):
        ms.streams(s3.url)


def test_the_root_of_a_finished_one_lists_its_domains(convert, tmp_path, s3):
    convert(tmp_path / "out")
    expected = r"domains code, web: give Stream\(remote='.*/code', split='train'\) .*=mixstream\.streams\('"
    with pytest.raises(IndexNotFoundError, match=expected):
        ms.StreamingDataset(remote=str(tmp_path / "out"), batch_size=1)
    for path in Path(tmp_path / "out").rglob("*"):
        if path.is_file():
            s3.put(path.relative_to(tmp_path / "out").as_posix(), path.read_bytes())
    with pytest.raises(IndexNotFoundError, match=expected):
        ms.StreamingDataset(remote=s3.url, split="train", batch_size=1)


def test_a_writer_that_did_not_come_to_its_end(tmp_path):
    writer = ms.MDSWriter(out=tmp_path / "out", columns={"x": "int"}, size_limit=1)
    for x in range(3):
        writer.write({"x": x})
    writer.cancel_future_jobs()
    with pytest.raises(UnfinishedError, match=r"shards: unfinished, its writer did not come to its end"):
        ms.StreamingDataset(remote=str(tmp_path / "out"), batch_size=1)
    assert main(["verify", str(tmp_path / "out")]) == 1
