"""A batch is moved and rebuilt by trainers: its step and domains stay known, or `report` says why they are not."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from harness import Tilt, losses, make_dataset, row_ids
from torch.utils._pytree import tree_flatten, tree_map, tree_map_with_path, tree_unflatten
from torch.utils.data import default_convert
from torch.utils.data._utils.pin_memory import pin_memory

import mixstream as ms
from mixstream.errors import ConfigError, FeedbackError


def one(step: int = 7, rows: int = 4) -> ms.Batch:
    batch = ms.Batch({"x": torch.arange(rows) + 10 * step, "domain": torch.arange(rows) % 2, "texts": ["a"] * rows})
    batch.step, batch.repeats, batch.domain = step, 1, np.arange(rows) % 2
    return batch


def known(batch: Any) -> tuple[int, int, list[int], slice]:
    assert type(batch) is ms.Batch
    assert all(type(name) is str for name in dict.keys(batch))  # what is kept is plain
    return batch.step, batch.repeats, batch.domain.tolist(), batch.rows


def move(value: Any) -> Any:
    return value.to(torch.float32) if isinstance(value, torch.Tensor) else value


def set_one_by_one(batch: ms.Batch) -> ms.Batch:
    other = ms.Batch()
    for name in batch:
        other[name] = move(batch[name])
    return other


WAYS: dict[str, Callable[[ms.Batch], Any]] = {
    "HF Trainer and accelerate": lambda b: type(b)({name: move(value) for name, value in b.items()}),
    "Lightning": lambda b: type(b)(OrderedDict((name, move(value)) for name, value in b.items())),
    "scatter of DistributedDataParallel": lambda b: type(b)(tuple((name, move(value)) for name, value in b.items())),
    "keys": lambda b: ms.Batch({name: move(b[name]) for name in b.keys()}),  # noqa: SIM118
    "one by one": set_one_by_one,
    "by keyword": lambda b: ms.Batch(**b),
    "a dict": lambda b: ms.Batch(dict(b)),
    "a dict of a dict": lambda b: ms.Batch({name: move(value) for name, value in dict(b).items()}),
    "unpacked, with a column more": lambda b: ms.Batch({**b, "mask": torch.ones(4)}),
    "without a column": lambda b: ms.Batch({name: value for name, value in b.items() if name != "domain"}),
    "or": lambda b: b | {"mask": torch.ones(4)},
    "or from the right": lambda b: {"x": torch.ones(4)} | b,
    "copy": lambda b: b.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda b: pickle.loads(pickle.dumps(b)),
    "to": lambda b: b.to("cpu", non_blocking=True),
    "tree_map": lambda b: tree_map(move, b),
    "tree_map_with_path": lambda b: tree_map_with_path(lambda _, value: move(value), b),
    "tree_unflatten": lambda b: tree_unflatten(*tree_flatten(b)),
    "default_convert": default_convert,
    "updated in place": lambda b: b.update({name: move(value) for name, value in b.items()}) or b,
    "twice": lambda b: type(b)({k: move(v) for k, v in type(b)({k: move(v) for k, v in b.items()}).items()}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_that_is_moved_or_rebuilt_is_of_the_same_rows(way):
    rebuilt = WAYS[way](one())
    assert known(rebuilt) == (7, 1, [0, 1, 0, 1], slice(None))
    part = one(rows=8).split(2)[1]
    assert known(WAYS[way](part)) == (7, 1, [0, 1, 0, 1], slice(4, 8))


def test_parts_of_parts_know_which_rows_of_the_step_they_are():
    batch = one(rows=12)
    for half, begin in zip(batch.split(2), (0, 6)):
        for third, at in zip(half.split(3), (0, 2, 4)):
            assert known(third) == (7, 1, [0, 1], slice(begin + at, begin + at + 2))
            assert third["x"].tolist() == [70 + begin + at, 71 + begin + at]
            (again,) = third.split(1)
            assert again.rows == third.rows


def test_to_moves_tensors_and_nothing_else():
    batch = one()
    batch["deep"] = {"a": [torch.zeros(4)], "b": "text"}
    moved = batch.to("meta")
    assert (moved["x"].device.type, moved["deep"]["a"][0].device.type) == ("meta", "meta")
    assert (moved["texts"], moved["deep"]["b"], moved.domain.tolist()) == (["a"] * 4, "text", [0, 1, 0, 1])
    assert (batch["x"].device.type, batch["deep"]["a"][0].device.type) == ("cpu", "cpu")
    with pytest.raises(ConfigError):
        batch.to(torch.float16)  # type: ignore[arg-type] - it would round token ids


def test_pinning_keeps_it(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 0.5)
    twins: list[Any] = [one().pin_memory(), pin_memory(one())]
    for pinned in twins:
        assert known(pinned) == (7, 1, [0, 1, 0, 1], slice(None))
        assert pinned["x"].tolist() == [70.5, 71.5, 72.5, 73.5]


def test_it_is_a_dict_with_plain_contents():
    batch = one()
    assert list(batch) == list(batch.keys()) == ["x", "domain", "texts"]
    assert ms.Batch({"x": 1}) == {"x": 1}
    assert ms.Batch({"x": 1}).step == -1
    assert dict(**batch) == dict(batch.items()) == batch
    assert repr(ms.Batch({"x": 1})) == "{'x': 1}"
    assert all(type(name) is str for name in pickle.loads(pickle.dumps(dict(batch))))


def shifted(step: int) -> ms.Batch:
    batch = one(step)
    batch["domain"] = 1 - batch["domain"]
    batch.domain = 1 - batch.domain
    return batch


def of(step: int, *names: str) -> dict[str, Any]:
    return {name: value for name, value in one(step).items() if name in names}


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "fewer rows": (lambda: ms.Batch({name: value[:2] for name, value in one().items()}), "column 'x' has 2 rows"),
    "one column of fewer": (lambda: ms.Batch({**one(), "x": torch.ones(2)}), "column 'x' has 2 rows"),
    "more rows": (
        lambda: tree_map(lambda value: torch.cat([value] * 2), ms.Batch(of(7, "x"))),
        "column 'x' has 8 rows",
    ),
    "packed": (lambda: tree_map(lambda value: value[None], ms.Batch(of(7, "x"))), "column 'x' has 1 rows"),
    "of two": (lambda: ms.Batch({**of(3, "x"), **of(4, "domain", "texts")}), "columns of the steps 3, 4"),
    "half overwritten": (lambda: one(3) | of(4, "x"), "columns of the steps 3 and 4"),
    "values of another": (lambda: ms.Batch({**one(3), **shifted(4)}), "column 'domain' is of other rows"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_batch_of_other_rows_does_not_pass_for_the_old_one(other):
    make, why = OTHERS[other]
    batch = make()
    assert (batch.step, batch.domain) == (-1, None)
    assert why in batch.unknown


def test_a_buffer_that_is_updated_is_the_newest_batch():
    buffer = ms.Batch()
    for step in range(3):
        buffer.update(one(step))
        assert known(buffer)[0] == step
        assert buffer["x"].tolist() == one(step)["x"].tolist()


def test_compiled_steps_are_compiled_once():
    """What rides in a batch's names is none of the compiler's business."""
    compiled: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    @torch.compile(backend=backend, fullgraph=True)
    def step(batch: ms.Batch) -> dict[str, Any]:
        return {name: value + batch["x"] for name, value in batch.items()}

    for at in range(4):
        batch = ms.Batch({"x": torch.arange(4)})
        batch.step, batch.domain = at, np.zeros(4, dtype=np.int64)
        assert step(batch)["x"].tolist() == [0, 2, 4, 6]
    assert len(compiled) == 1


@pytest.mark.parametrize("face", ["Loader", "StreamingDataLoader"])
@pytest.mark.parametrize("way", ["HF Trainer and accelerate", "to", "tree_map", "plain dict", "pickle"])
def test_reports_of_rebuilt_batches_count(library, face, way):
    """Weights move as they do where the batches themselves are reported; law 1 says the rest."""
    found = []
    for rebuilt in (False, True):
        dataset = make_dataset(library, mixer=Tilt(), lag=4)
        loader: Any = ms.Loader(dataset) if face == "Loader" else ms.StreamingDataLoader(dataset, batch_size=8)
        for batch in loader:
            changed: Any = batch
            if rebuilt:
                changed = {k: move(v) for k, v in batch.items()} if way == "plain dict" else WAYS[way](batch)
            loader.report(changed, torch.from_numpy(losses(row_ids(batch))))
            if batch.step == 9:
                break
        found.append(loader.state_dict())
    assert found[0] == found[1]
    assert loader.weights != ms.Loader(make_dataset(library, mixer=Tilt(), lag=4)).weights


@pytest.mark.parametrize(
    ("reported", "why"),
    [
        (lambda batch: {"x": 1}, "a dict does not say of which step and domains it is: report the batch that"),
        (lambda batch: [batch], "a list does not say"),
        (lambda batch: ms.Batch({n: v[:4] for n, v in batch.items()}), r"a Batch does .*\(column 'tokens' has 4 rows"),
        (lambda batch: {n: v[:4] for n, v in batch.items()}, r"a dict does .*\(column 'tokens' has 4 rows"),
        (lambda batch: None, "a NoneType does not say"),
    ],
)
def test_a_report_of_unknown_rows_is_refused(library, reported, why):
    with ms.Loader(make_dataset(library, mixer=Tilt())) as loader:
        batch = next(iter(loader))
        with pytest.raises(FeedbackError, match=why):
            loader.report(reported(batch), torch.ones(8))
        loader.report(batch, torch.ones(8))


def test_domains_in_a_column_are_the_user_s_to_change(library):
    with ms.Loader(make_dataset(library)) as loader:
        batch = next(iter(loader))
        before = batch.domain.tolist()
        batch["domain"] += 5
        assert batch.domain.tolist() == before


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")
def test_batches_of_a_streaming_dataloader_have_a_column_of_domains(library, workers):
    loader = ms.StreamingDataLoader(make_dataset(library), batch_size=8, num_workers=workers)
    for batch in loader:
        assert batch["domain"].tolist() == batch.domain.tolist() == [row // 1000 - 1 for row in row_ids(batch)]
        assert batch["domain"].dtype == torch.int64


def test_a_trainer_of_transformers_keeps_it(library, tmp_path):
    transformers = pytest.importorskip("transformers")
    prepare = transformers.Trainer._prepare_input
    trainer: Any = type("T", (), {"args": type("A", (), {"device": torch.device("cpu")}), "_prepare_input": prepare})()
    trainer.is_deepspeed_enabled = False
    assert known(prepare(trainer, one())) == known(one())


def test_accelerate_keeps_it():
    operations = pytest.importorskip("accelerate.utils.operations")
    assert known(operations.send_to_device(one(), "cpu", non_blocking=True)) == known(one())
    assert known(operations.recursively_apply(move, one())) == known(one())


def test_lightning_keeps_it():
    apply = pytest.importorskip("lightning.fabric.utilities.apply_func")
    assert known(apply.move_data_to_device(one(), torch.device("cpu"))) == known(one())
    assert known(apply.apply_to_collection(one(), torch.Tensor, move)) == known(one())
