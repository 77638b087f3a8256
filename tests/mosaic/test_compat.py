"""A program with mosaicml-streaming, and below `python -m mixstream.compat`: the same batches (`make test-mosaic`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("streaming", reason="compares live with mosaicml-streaming: make test-mosaic")

pytestmark = pytest.mark.mosaic

HERE = Path(__file__).parent
WRITE = """
import sys
from streaming import MDSWriter
for part in range(2):
    with MDSWriter(columns={"x": "int"}, out=f"{sys.argv[1]}/{part}", size_limit=400) as writer:
        for x in range(100 * part, 100 * part + 90):
            writer.write({"x": x})
"""
READ = """
import json, sys
import streaming
from streaming import Stream, StreamingDataLoader, StreamingDataset

class Shifted(StreamingDataset):
    def __getitem__(self, at):
        return {"x": super().__getitem__(at)["x"] + 1000}

if __name__ == "__main__":
    root, cache, start, stop, state = sys.argv[1:]
    streams = [Stream(remote=f"{root}/{k}", local=f"{cache}/{k}", repeat=1 + k) for k in range(2)]
    dataset = Shifted(streams=streams, batch_size=4, shuffle=True, shuffle_seed=7, num_canonical_nodes=2)
    assert isinstance(dataset, streaming.base.dataset.StreamingDataset)
    loader = StreamingDataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=start)
    if state != "none":
        loader.load_state_dict(json.loads(state))
    for _ in range(2):
        for step, batch in enumerate(loader):
            print("batch", *batch["x"].tolist())
            if step == int(stop):
                print("state", json.dumps(loader.state_dict()))
                sys.exit()
"""


def run(program: str, *arguments: str, ours: bool, cwd: Path) -> list[str]:
    """Return the lines that a program prints, with that package or with ours."""
    (cwd / "program.py").write_text(program)
    through = ["-m", "mixstream.compat"] if ours else []
    command = [sys.executable, "-W", "ignore", *through, "program.py", *arguments]
    paths = [str(HERE / "stubs"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_program_sees_the_same_batches_and_goes_on_from_its_own_checkpoint(tmp_path, method):
    run(WRITE, str(tmp_path), ours=method == "spawn", cwd=tmp_path)
    whole = run(READ, str(tmp_path), f"{tmp_path}/a", method, "-1", "none", ours=False, cwd=tmp_path)
    assert len(whole) > 100
    assert run(READ, str(tmp_path), f"{tmp_path}/b", method, "-1", "none", ours=True, cwd=tmp_path) == whole
    *begun, state = run(READ, str(tmp_path), f"{tmp_path}/c", method, "20", "none", ours=False, cwd=tmp_path)
    state = json.dumps(json.loads(state.removeprefix("state ")))
    assert begun == whole[:21]
    rest = run(READ, str(tmp_path), f"{tmp_path}/d", method, "-1", state, ours=True, cwd=tmp_path)
    assert rest[: len(whole) - 21] == whole[21:]
