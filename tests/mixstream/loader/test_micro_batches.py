"""`MicroBatches`: a loader's steps in micro-batches; the position is that after the last finished step."""

from __future__ import annotations

import pytest
import torch
from harness import Tilt, joined, make_dataset, row_ids

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.loader import MicroBatches, check_ranks


def parts_of(library, *, parts: int = 4, **given) -> MicroBatches:
    own = {name: given.pop(name) for name in ("epochs",) if name in given}
    return MicroBatches(ms.Loader(make_dataset(library, **given)), parts=parts, remedy="Save later", **own)


def take(batches: MicroBatches, steps: int) -> list[list[int]]:
    """Return the rows of steps that are taken and finished."""
    rows = []
    for _ in range(steps):
        taken = [next(batches) for _ in range(batches.parts)]
        batches.finish(taken[-1])
        rows.append(joined(map(row_ids, taken)))
    return rows


@pytest.fixture
def plain(library) -> list[list[int]]:
    with ms.Loader(make_dataset(library)) as loader:
        return [row_ids(batch) for _ in range(2) for batch in loader]


def test_steps_go_on_over_epochs_and_states_under_other_micro_batches(library, plain):
    first = parts_of(library)
    assert take(first, len(first.loader) + 3) == plain[: len(first.loader) + 3]
    second = parts_of(library, parts=2)
    second.load_state_dict(first.state_dict())
    assert take(second, 3) == plain[len(first.loader) + 3 :][:3]
    first.loader.close()
    second.loader.close()


def test_the_end_is_that_of_the_epochs(library, plain):
    batches = parts_of(library, epochs=1)
    assert take(batches, len(batches.loader)) == plain[: len(batches.loader)]
    assert next(batches, None) is None
    batches.loader.close()


def test_a_step_is_in_no_state_until_it_is_finished(library, plain):
    batches = parts_of(library)
    take(batches, 2)
    taken = [next(batches)]
    with pytest.raises(StateError, match=r"step 2 is not finished \(3 of its 4 micro-batches .*\. Save later"):
        batches.state_dict()
    taken += [next(batches) for _ in range(3)]
    with pytest.raises(StateError, match=r"all of it is read"):
        batches.state_dict()
    batches.rewind()
    assert take(batches, 1) == plain[2:3]
    assert batches.state_dict()["step"] == 3
    batches.keep = True
    next(batches)
    assert batches.state_dict()["step"] == 3
    batches.loader.close()


def test_a_caller_who_moves_the_loader_within_a_step_reads_from_there(library, plain):
    batches = parts_of(library)
    start = batches.state_dict()
    take(batches, 3)
    next(batches)
    batches.loader.load_state_dict(start)
    batches.rewind()
    assert take(batches, 2) == plain[:2]
    batches.loader.close()


def test_losses_of_a_step_that_is_read_again_are_reported_once(library):
    batches = parts_of(library, mixer=Tilt(), lag=4)
    losses = (torch.ones(3), torch.ones(3))
    batches.report(next(batches), losses)
    batches.rewind()
    for _ in range(4):
        batches.report(part := next(batches), losses)
    batches.finish(part)
    assert batches.state_dict()["mixing"]["reported"] == 1
    batches.loader.close()


def test_batches_that_do_not_say_their_step_are_refused(library):
    dataset = make_dataset(library)
    loader = ms.Loader(dataset, collate_fn=lambda samples: [sample["tokens"] for sample in samples])
    with pytest.raises(ConfigError, match="returned a list that does not say its step"):
        next(MicroBatches(loader, parts=1, remedy=""))
    loader.close()


def test_a_trainer_with_other_ranks_is_refused(library):
    dataset = make_dataset(library, rank=1, world_size=2, batch_size=4)
    check_ranks(dataset, rank=1, ranks=2, trainer="it", remedy="")
    with pytest.raises(ConfigError, match=r"rank 1 of 2, and for it this is rank 0 of 1 .*twice or never\. Do this"):
        check_ranks(dataset, rank=0, ranks=1, trainer="it", remedy="Do this")
