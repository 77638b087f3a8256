"""Step logs of several ranks: joined in order, and read while they are still written."""

import json

import numpy as np

import mixstream as ms
from mixstream_tools.demo.step_log import StepLogReader, row_hashes


def line(step: int, rank: int) -> str:
    told = {"step": step, "rows": [f"{step}-{rank}"], "rows_K": [1, 0], "loss_sum_K": [2.0, 0.0], "count_K": [4.0, 0.0]}
    return json.dumps({**told, "waited": float(rank), "at": 10.0 * rank}) + "\n"


def test_step_logs_join_ranks_in_order_and_wait_for_the_slowest(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    step_log = StepLogReader(files=[first, second])
    assert list(step_log.poll()) == []
    first.write_text(line(0, 0) + line(1, 0))
    assert list(step_log.poll()) == []
    second.write_text(line(0, 1) + line(1, 1)[:20])  # written in the middle of a line
    (step,) = step_log.poll()
    assert (step.step, step.rows, step.rows_K, step.loss_sum_K) == (0, ("0-0", "0-1"), (2, 0), (4.0, 0.0))
    assert (step.waited, step.at) == (1.0, 10.0)
    second.write_text(line(0, 1) + line(1, 1))
    assert [step.rows for step in step_log.poll()] == [("1-0", "1-1")]
    assert [step.step for step in step_log.steps] == [0, 1]


def test_row_hashes_tell_tokens_and_domains_apart(tmp_path):
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4"}, out=str(tmp_path)) as writer:
        for value in (1, 1, 2):
            writer.write({"tokens": np.full(4, value, np.uint16)})
    batch = next(iter(ms.Loader(ms.StreamingDataset(local=str(tmp_path), batch_size=3))))
    hashes = row_hashes(batch)
    assert hashes[0] == hashes[1] != hashes[2]
    batch.domain = np.array([0, 1, 0])
    assert row_hashes(batch)[0] == hashes[0] != row_hashes(batch)[1]
