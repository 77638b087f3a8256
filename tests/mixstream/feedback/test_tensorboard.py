"""The numbers of the mixing log for TensorBoard."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from mixing_logs import NAMES, begin, open_log, weights_at, write

from mixstream.feedback.replay import read_log
from mixstream.plan.weights import quantise


@pytest.fixture
def board(monkeypatch):
    """Stand-ins for tensorboard that keep what they are given."""
    kept = {"events": [], "summaries": [], "closed": 0}

    class FileWriter:
        def __init__(self, directory):
            kept["directory"] = directory

        def add_event(self, event, step):
            kept["events"].append((event, step))

        def add_summary(self, summary, step):
            kept["summaries"].append((step, {value.tag: value.simple_value for value in summary.value}))

        def close(self):
            kept["closed"] += 1

    class Summary(types.SimpleNamespace):
        Value = types.SimpleNamespace

    event_pb2 = types.SimpleNamespace(Event=dict, SessionLog=lambda status: status)
    event_pb2.SessionLog = type("SessionLog", (), {"START": 1, "__init__": lambda self, status: None})
    modules = {
        "torch.utils.tensorboard": types.SimpleNamespace(FileWriter=FileWriter),
        "tensorboard": types.ModuleType("tensorboard"),
        "tensorboard.compat": types.ModuleType("tensorboard.compat"),
        "tensorboard.compat.proto": types.SimpleNamespace(
            event_pb2=event_pb2, summary_pb2=types.SimpleNamespace(Summary=Summary)
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return kept


def test_tensorboard_gets_the_same_numbers_every_ten_steps(tmp_path, board):
    """Weights of the tenth step, losses as means over the ten, each term counted once."""
    with open_log(tmp_path) as log:
        begin(log, 5)
        for step, (loss, tokens) in zip(range(5, 12), [(8.0, 1), (2.0, 3), *[(np.nan, 4)] * 5]):
            log.write(
                step,
                weights_K=quantise([step, 11, 10]),
                rows_K=[1, 0, 1],
                loss_sum_K=np.array([loss * tokens, 0, np.nan]),
                count_K=np.array([tokens, 0, 5.0]),
                explained={"rate": 0.5, "limit": np.array([step, 2.0, np.nan]), "A": np.ones((2, 2))},
            )
        log.write_validation(11, np.array([1.0, 2.0, 3.0]))
    (step, scalars), (validated, validation) = board["summaries"]
    assert (board["directory"], step, validated, board["closed"]) == (str(tmp_path), 10, 11, 1)
    assert [at for _, at in board["events"]] == [5, 5], "what an earlier run wrote of step 5 and later is dropped"
    weights = {f"mixture/weight/{name}": parts / 2**32 for name, parts in zip(NAMES, quantise([10, 11, 10]).tolist())}
    explained = {"mixture/explained/rate": 0.5, "mixture/explained/limit/code": 10, "mixture/explained/limit/law": 2.0}
    assert scalars == weights | explained | {"mixture/loss/code": (8 * 1 + 2 * 3) / 4}
    assert validation == {f"mixture/validation/{name}": k + 1.0 for k, name in enumerate(NAMES)}
    assert len(read_log(tmp_path).step_T) == 7


def test_without_tensorboard_there_is_the_log_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with open_log(tmp_path) as log:
        begin(log)
        write(log, [0])
    assert [file.name for file in tmp_path.iterdir()] == ["mixture.jsonl"]
    assert len(read_log(tmp_path).step_T) == 1


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_what_was_written_and_forgets_what_was_cut_short(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files of one second are read by the number at their end, as texts: the 10th of a process comes before its 9th.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    for first, last in ((0, 60), (35, 45)):
        with open_log(tmp_path) as log:
            begin(log, first)
            write(log, range(first, last))
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    events = seen.Scalars("mixture/weight/web")
    assert [event.step for event in events] == [0, 10, 20, 30, 40]
    assert events[3].value == pytest.approx(weights_at(30)[2] / 2**32)
