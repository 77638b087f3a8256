"""examples/train.py as a newcomer runs it: alone, under torchrun, killed and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mixstream as ms
from mixstream.feedback.replay import read_log
from mixstream_examples import train as example

DRIVER = """
import json, os, pathlib, sys
from mixstream_examples import train as example

data, out = map(pathlib.Path, sys.argv[1:])
journal = (out / f"journal-{example.RANK}.jsonl").open("w")

def watch(loader, batch, loss):
    journal.write(json.dumps([batch.step, batch["tokens"].tolist()]) + "\\n")

example.train(data=data, checkpoint=out / "model.pt", steps=14, rows=8, resume=True, watch=watch)
"""

NAMES = {"natural": "Static", "odm": "ODM", "ado": "ADO", "aioli": "Aioli"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So small a model trains faster on one thread than on two that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small domains of bytes, laid out as `mixstream convert` does."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name, rows in {"code": 40, "prose": 25, "law": 10}.items():
        for split, count in {"train": rows, "val": 8}.items():
            with ms.MDSWriter(columns={"tokens": "ndarray:uint16:16"}, out=str(root / name / split)) as writer:
                for _ in range(count):
                    writer.write({"tokens": random.integers(0, 257, 16).astype(np.uint16)})
    return root


def read_alone(data: Path, steps: int) -> list[list[list[int]]]:
    """The global batches of a loader that only reads, in this process."""
    loader = example.open_loader(data, rows=8, seed=0, mixer=None)
    found = []
    while len(found) < steps:
        found += [batch["tokens"].tolist() for batch in loader]
    loader.close()
    return found[:steps]


def test_two_processes_resume_what_one_began_and_read_its_batches(data, tmp_path, warm_programs):
    alone, driver = [], tmp_path / "driver.py"
    example.train(
        data=data,
        checkpoint=tmp_path / "model.pt",
        steps=4,
        rows=8,
        watch=lambda loader, batch, loss: alone.append(batch["tokens"].tolist()),
    )
    driver.write_text(DRIVER)
    command = [warm_programs / "torchrun", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(driver), str(data), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    first, second = (
        [json.loads(line) for line in (tmp_path / f"journal-{rank}.jsonl").read_text().splitlines()] for rank in (0, 1)
    )
    assert [step for step, _ in first] == [step for step, _ in second] == list(range(4, 14))
    joined = alone + [mine + yours for (_, mine), (_, yours) in zip(first, second)]
    assert joined == read_alone(data, 14)  # over the end of the first epoch, which has 10 steps
    assert torch.load(tmp_path / "model.pt", weights_only=True)["data"]["step"] == 14


def test_the_program_trains_saves_and_resumes(data, tmp_path, monkeypatch, capsys):
    checkpoint = tmp_path / "model.pt"
    words = ["train.py", "--data", str(data), "--checkpoint", str(checkpoint), "--steps"]
    for steps, more in ((2, []), (25, ["--resume"])):
        monkeypatch.setattr(sys, "argv", [*words, str(steps), *more])
        example.main()
        assert torch.load(checkpoint, weights_only=True)["data"]["step"] == steps
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told] == [["step", "0"], ["step", "20"]]
    assert all(name in told[0] for name in ("code", "law", "prose"))
    assert {file.name for file in tmp_path.iterdir() if "tfevents" not in file.name} == {"model.pt", "mixture.jsonl"}
    recorded = read_log(tmp_path)  # weights and losses of the whole run, over the resume
    assert recorded.step_T.tolist() == list(range(25))
    assert np.isfinite(recorded.loss_TK).any(axis=1).all()


def test_a_checkpoint_is_not_overwritten_by_a_new_run(tmp_path, monkeypatch, capsys):
    (checkpoint := tmp_path / "model.pt").write_bytes(b"dear")
    words = ["train.py", "--data", str(tmp_path), "--checkpoint", str(checkpoint)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        example.main()
    assert "add --resume to go on from it" in capsys.readouterr().err
    assert checkpoint.read_bytes() == b"dear"


@pytest.mark.filterwarnings("ignore:validation sets are smaller")
@pytest.mark.parametrize("mixer", sorted(NAMES))
def test_every_mixer_on_offer_trains_and_resumes(data, tmp_path, monkeypatch, mixer):
    """Among them one that wants the model evaluated before its first step and after each probe."""
    words = ["train.py", "--data", str(data), "--checkpoint", str(tmp_path / "model.pt"), "--mixer", mixer, "--steps"]
    for steps, more in ((3, []), (6, ["--resume"])):
        monkeypatch.setattr(sys, "argv", [*words, str(steps), *more])
        example.main()
    recorded = read_log(tmp_path)
    learns = isinstance(example.MIXERS[mixer], ms.mixers.Mixer)
    assert (recorded.header.mixer, recorded.header.lag) == (NAMES[mixer], 16 if learns else None)
    assert recorded.step_T.tolist() == list(range(6))
    assert sorted(recorded.validation) == ([-1, 3] if mixer == "aioli" else [])


def test_the_program_is_short_enough_to_read():
    assert len(Path(example.__file__).read_text().splitlines()) <= 165


def test_the_model_does_not_look_ahead():
    torch.manual_seed(0)
    model = example.Model().eval()
    tokens = torch.randint(0, 257, (1, 12))
    changed = tokens.clone()
    changed[0, 8:] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :8], model(changed)[:, :8])
        assert not torch.equal(model(tokens)[:, 8:], model(changed)[:, 8:])
