"""Batch transforms: the same batches on every face, with the rows' domains and steps kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harness import make_dataset, row_ids

import mixstream as ms
from mixstream.errors import ConfigError

FACES = ["Loader", "Loader, prefetch=0", "StreamingDataLoader", "StreamingDataLoader, 2 workers"]


def negate(batch: ms.Batch) -> ms.Batch:
    batch["tokens"] = -batch["tokens"]
    return batch


def positions(batch: ms.Batch) -> dict[str, Any]:
    """Return a new dict, which is no Batch."""
    width = batch["tokens"].shape[1]
    return {**batch, "position_ids": torch.arange(width).expand_as(batch["tokens"])}


def open_face(face: str, library: Any, transforms: Any, **kw: Any) -> Any:
    dataset = make_dataset(library)
    if face.startswith("Loader"):
        return ms.Loader(dataset, prefetch=0 if face.endswith("0") else 4, transforms=transforms, **kw)
    workers = 2 if face.endswith("workers") else 0
    return ms.StreamingDataLoader(dataset, num_workers=workers, transforms=transforms, **kw)


@pytest.mark.parametrize("face", FACES)
def test_transforms_are_applied_in_their_order_on_every_face(face, library):
    plain = list(open_face(face, library, ()))
    changed = list(open_face(face, library, [positions, negate]))
    assert len(plain) == len(changed) > 20
    for before, after in zip(plain, changed):
        assert isinstance(after, ms.Batch)
        assert torch.equal(after["tokens"], -before["tokens"])
        assert after["position_ids"].shape == after["tokens"].shape
        assert (after.step, after.repeats, after.domain.tolist()) == (
            before.step,
            before.repeats,
            before.domain.tolist(),
        )
        assert [row_ids(part) for part in after.split(2)] == [[-n for n in row_ids(part)] for part in before.split(2)]


def test_a_transformed_batch_is_reported_as_any_other(library):
    found: dict[bool, Any] = {}
    for transformed in (False, True):
        dataset = make_dataset(library, mixer=ms.mixers.ODM(warmup=1), lag=2)
        with ms.Loader(dataset, prefetch=2, transforms=[positions, negate] if transformed else ()) as loader:
            for batch in loader:
                loader.report(batch, batch["tokens"].abs().double().mean(dim=1) / 1024)
            found[transformed] = loader.state_dict(), loader.weights
    assert found[True] == found[False]


def test_validation_takes_the_loaders_transforms(library, tmp_path):
    for split in ("train", "val"):
        for name in ("web", "code", "law"):
            with ms.MDSWriter(columns={"tokens": "ndarray:uint16:8"}, out=str(tmp_path / name / split)) as writer:
                for number in range(20):
                    writer.write({"tokens": np.full(8, number, np.uint16)})
    streams = [ms.Stream(remote=str(tmp_path / name), split="train") for name in ("web", "code", "law")]
    loader = ms.Loader(ms.StreamingDataset(streams=streams, batch_size=4), transforms=[negate])
    plain = [batch["tokens"] for batch in loader.validation(rows=5, transforms=())]
    changed = [batch["tokens"] for batch in loader.validation(rows=5)]
    assert all(torch.equal(one, -other) for one, other in zip(plain, changed, strict=True))


def test_a_transform_that_returns_no_batch_is_refused_by_its_name(library):
    def forgetful(batch: ms.Batch) -> None:
        batch.clear()

    with pytest.raises(ConfigError, match="the transform 'forgetful' returned a NoneType: return the batch"):
        next(iter(open_face("Loader", library, [forgetful])))


def test_a_transform_that_loses_rows_is_refused_by_its_name(library):
    def half(batch: ms.Batch) -> ms.Batch:
        batch["tokens"] = batch["tokens"][:4]
        return batch

    with pytest.raises(ConfigError, match="the transform 'half' returned 4 rows of column 'tokens' of a batch of 8"):
        next(iter(open_face("Loader", library, [half])))


@pytest.mark.parametrize(
    ("value", "rows"), [(torch.tensor(7), 0), (np.zeros((3, 8)), 3), ([1, 2, 3], 3)], ids=["number", "array", "list"]
)
def test_whatever_takes_the_place_of_a_column_has_all_rows(value, rows, library):
    loader = open_face("Loader", library, [lambda batch: {**batch, "tokens": value}])
    with pytest.raises(ConfigError, match=f"returned {rows} rows of column 'tokens' of a batch of 8"):
        next(iter(loader))


def test_a_transform_may_change_the_type_of_every_column(library):
    loader = open_face("Loader", library, [lambda batch: {key: value.int() for key, value in batch.items()}])
    assert next(iter(loader))["domain"].dtype == torch.int32


def test_rows_may_be_laid_out_in_one(library):
    def flat(batch: ms.Batch) -> ms.Batch:
        batch["tokens"] = batch["tokens"].reshape(1, -1)
        return batch

    assert next(iter(open_face("Loader", library, [flat])))["tokens"].shape == (1, 64)


def test_the_error_of_a_transform_says_in_which_and_comes_in_its_place(library):
    def failing(batch: ms.Batch) -> ms.Batch:
        if batch.step == 3:
            raise KeyError("labels")
        return batch

    loader, steps = open_face("Loader", library, [failing]), []
    with pytest.raises(KeyError, match="labels") as caught:
        steps.extend(batch.step for batch in loader)
    assert caught.value.__notes__ == ["in the transform 'failing' of the batch of step 3"]
    assert loader.step == 3


def test_a_batch_whose_transform_raises_is_not_handed_out(library):
    def failing(batch: ms.Batch) -> ms.Batch:
        if batch.step == 2:
            raise ValueError("bad luck")
        return batch

    loader = open_face("StreamingDataLoader", library, [failing])
    with pytest.raises(ValueError, match="bad luck"):
        list(loader)
    assert loader.state_dict()["step"] == 2


@pytest.mark.parametrize("face", FACES)
def test_stop_iteration_in_a_transform_does_not_end_the_run(face, library):
    numbers = iter([1, 2])
    loader = open_face(face, library, [lambda batch: {**batch, "n": next(numbers)}])
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(loader)


def test_a_transform_that_reorders_rows_is_refused(library):
    loader = open_face("Loader", library, [lambda batch: {key: value.flip(0) for key, value in batch.items()}])
    with pytest.raises(ConfigError, match="changed the column 'domain' or the order of rows"):
        list(loader)


def test_a_transform_may_return_one_object_again_and_again(library):
    kept = ms.Batch()

    def reuse(batch: ms.Batch) -> ms.Batch:
        kept.clear()
        kept.update(batch)
        return kept

    batches = list(open_face("Loader", library, [reuse]))
    assert [batch.step for batch in batches] == list(range(len(batches)))
    assert [row_ids(batch) for batch in batches] == [row_ids(batch) for batch in open_face("Loader", library, ())]


def test_transforms_need_batches_that_are_dicts(library):
    loader = open_face("Loader", library, [negate], collate_fn=lambda samples: [s["tokens"] for s in samples])
    with pytest.raises(ConfigError, match="this one is a list: return a dict from the collate_fn"):
        next(iter(loader))


@pytest.mark.parametrize("transforms", [[3], ["negate"], 5])
def test_what_cannot_be_called_is_refused_at_once(transforms, library):
    with pytest.raises(ConfigError, match="cannot be called: give functions from a batch to a batch"):
        open_face("Loader", library, transforms)
