"""torchtitan 0.3 trains on mixstream: its Trainer, its FSDP, its checkpoints; killed, resumed on other dp degrees."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import torchtitan_on_cpu  # noqa: F401 - before torchtitan
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.integrations.torchtitan import MixDataLoader
from mixstream.integrations.torchtitan_trainer import DomainLoss

PROGRAM = "torchtitan_program.py"
EOS = 256


@pytest.fixture
def titan(train: Callable[..., str], corpus: Path, tokenizer: str, tmp_path: Path) -> Callable[..., str]:
    """Return a function that trains below `tmp_path / out`."""

    def titan(out: str, **given: Any) -> str:
        (tmp_path / out).mkdir(exist_ok=True)
        return train(PROGRAM, **{"out": str(tmp_path / out), "corpus": str(corpus), "tokenizer": tokenizer, **given})

    return titan


def steps(out: Path, ranks: int) -> dict[int, list[list[int]]]:
    """Return the rows of each step's global batch, put together from those of the ranks; later runs count."""
    found: dict[int, list[list[int]]] = {}
    of_rank = [{} for _ in range(ranks)]
    for rank in range(ranks):
        for line in (out / f"rows-{rank}.jsonl").read_text().splitlines():
            record = json.loads(line)
            of_rank[rank][record["step"]] = record["rows"]
    for step in of_rank[0]:
        found[step] = [row for rows in of_rank for row in rows[step]]
    return found


def plain(corpus: Path, *, count: int, **options: Any) -> Iterator[list[list[int]]]:
    """Yield the global batches of a plain loop."""
    options = {"batch_size": 8, "shuffle": True, "streams": ms.streams(corpus), **options}
    with ms.Loader(ms.StreamingDataset(**options)) as loader:
        taken = 0
        while taken < count:
            for batch in loader:
                yield batch["tokens"].tolist()
                taken += 1
                if taken == count:
                    return


def scalars(out: Path) -> dict[str, list[float]]:
    """Return what torchtitan's TensorBoard files say."""
    found: dict[str, list[float]] = {}
    for directory in sorted({path.parent for path in out.rglob("events.out*")}):
        events = EventAccumulator(str(directory)).Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, []).extend(event.value for event in events.Scalars(name))
    return found


# --- the trainer ----------------------------------------------------------------------------------------------------


def test_killed_and_gone_on_with_on_other_dp_degrees_it_reads_the_rows_of_a_plain_loop(titan, corpus, tmp_path) -> None:
    expected = list(plain(corpus, count=8))
    titan("run", ranks=2, steps=9, local=2, **{"global": 8}, kill=5, killed=True)  # two micro-batches a step
    before = steps(tmp_path / "run", 2)
    assert len(before) >= 4
    for step, rows in before.items():
        assert rows == expected[step]
    for ranks, end in ((1, 6), (2, 8)):
        for path in (tmp_path / "run").glob("rows-*"):
            path.unlink()
        titan("run", ranks=ranks, steps=end, local=4, **{"global": 8})
        after = steps(tmp_path / "run", ranks)
        assert sorted(after) == [end - 2, end - 1]  # torchtitan counts steps from 1, the plan from 0
        for step, rows in after.items():
            assert rows == expected[step]


def test_weights_move_under_ado_and_losses_by_domain_are_in_torchtitans_metrics(titan, corpus, tmp_path) -> None:
    titan("run", ranks=2, steps=20, local=2, **{"global": 8}, mixer="ADO", interval=100, log=str(tmp_path / "log"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "rows-0.jsonl").read_text().splitlines()]
    assert lines[0]["weights"] != lines[-1]["weights"]
    found = scalars(tmp_path / "run")
    for name in ("web", "code"):
        assert len(found[f"loss/{name}"]) == 20
        assert found[f"loss/{name}"][-1] < found[f"loss/{name}"][0]
        assert len(set(found[f"weight/{name}"])) > 1
    check_sums(tmp_path)
    replayed = list(plain(corpus, count=20, mixer=ms.replay(tmp_path / "log")))
    assert replayed == [rows for _, rows in sorted(steps(tmp_path / "run", 2).items())]


def check_sums(path: Path) -> None:
    """Check that the losses that reached the mixer add up to those that torchtitan logs."""
    found = scalars(path / "run")
    lines = [json.loads(line) for line in next((path / "log").rglob("*.jsonl")).read_text().splitlines()]
    reported = [line for line in lines if "loss" in line]
    means = found["loss_metrics/global_avg_loss"]
    assert len(reported) >= len(means) - 1
    for line, mean in zip(reported, means):
        loss, count = np.array(list(line["loss"].values())), np.array(list(line["count"].values()))
        assert (loss * count).sum() / count.sum() == pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("axis", ["tp", "cp"])
def test_ranks_of_a_tp_or_cp_group_read_the_same_rows_and_count_them_once(titan, corpus, tmp_path, axis) -> None:
    titan("run", ranks=2, steps=3, local=8, mixer="ADO", log=str(tmp_path / "log"), **{axis: 2})
    expected = list(plain(corpus, count=3))
    for rank in range(2):
        lines = (tmp_path / "run" / f"rows-{rank}.jsonl").read_text().splitlines()
        assert [json.loads(line)["rows"] for line in lines] == expected
    check_sums(tmp_path)


def test_torchtitans_own_trainer_takes_the_dataloader_and_validates_with_it(titan, corpus, tmp_path) -> None:
    titan("run", ranks=1, steps=4, local=8, plain=True, validate=True)
    assert len(scalars(tmp_path / "run")["validation_metrics/loss"]) == 3
    assert [rows for _, rows in sorted(steps(tmp_path / "run", 1).items())] == list(plain(corpus, count=4))


def test_validation_is_not_counted_as_training(titan, corpus, tmp_path) -> None:
    titan("run", ranks=1, steps=3, local=8, validate=True, chunked=False, log=str(tmp_path / "log"), mixer="ADO")
    check_sums(tmp_path)


def test_a_run_without_another_epoch_ends_where_the_data_ends(titan, corpus, tmp_path) -> None:
    options = {"epoch_size": 24}
    printed = titan("run", ranks=2, steps=99, local=4, infinite=False, options=options, interval=1)
    assert "Ran out of data" in printed
    assert sorted(steps(tmp_path / "run", 2)) == [0, 1, 2]
    printed = titan("run", ranks=1, steps=99, local=8, infinite=False, options=options)  # it began no other epoch
    assert "Ran out of data" in printed
    assert sorted(steps(tmp_path / "run", 1)) == [0, 1, 2]


# --- the dataloader -------------------------------------------------------------------------------------------------


class Tokens:
    eos_id = EOS


def built(corpus: Path, *, local: int = 8, rank: int = 0, ranks: int = 1, seq_len: int = 256, **given: Any):
    """Build a dataloader as torchtitan's trainer does."""
    config = MixDataLoader.Config(**{"dataset_path": str(corpus), **given})
    return config.build(
        dp_world_size=ranks,
        dp_rank=rank,
        tokenizer=Tokens(),
        seq_len=seq_len,
        local_batch_size=local,
        snapshot_every_n_steps=1,
    )


def test_inputs_labels_and_positions_follow_documents(corpus: Path) -> None:
    loader = built(corpus)
    ends = 0
    for _ in range(40):
        inputs, labels = next(loader)
        tokens = loader.batch["tokens"].numpy()
        assert inputs.keys() == {"input", "positions"}
        assert (inputs["input"].numpy() == tokens[:, :-1]).all()
        for row, positions, label in zip(tokens, inputs["positions"].tolist(), labels.tolist()):
            expected, wanted, at = [], [], 0
            for token, following in zip(row[:-1].tolist(), row[1:].tolist()):
                expected.append(at)
                at = 0 if token == EOS else at + 1
                wanted.append(-100 if token == EOS else following)
                ends += token == EOS
            assert positions == expected
            assert label == wanted
    assert ends
    loader.close()


@pytest.mark.parametrize("given", [{"eos_id": -1}, {"eos_id": -1, "bos_id": 10}], ids=str)
def test_documents_may_begin_with_a_token_or_not_be_told_apart(corpus: Path, given: dict[str, int]) -> None:
    loader = built(corpus, **given)
    inputs, labels = next(loader)
    begins = torch.nn.functional.pad(inputs["input"][:, 1:] == given.get("bos_id", -1), (1, 0)).tolist()
    for row, positions in zip(begins, inputs["positions"].tolist()):
        expected: list[int] = []
        for begin in row:
            expected.append(0 if begin or not expected else expected[-1] + 1)
        assert positions == expected
    assert bool((labels == -100).any()) == ("bos_id" in given)
    loader.close()


def test_rows_of_another_length_are_refused_with_the_length_to_type(corpus: Path) -> None:
    loader = built(corpus, seq_len=257)
    with pytest.raises(ConfigError, match=re.escape("--seq-len 258, or set training.seq_len=256")):
        next(loader)
    loader.close()


def test_a_checkpoint_in_the_middle_of_a_step_is_refused(corpus: Path) -> None:
    loader = built(corpus, local=4, global_batch_size=8)
    next(loader)
    with pytest.raises(StateError, match="global_batch_size"):
        loader.state_dict()
    next(loader)
    loader.state_dict()
    loader.close()


def test_torchs_checkpoints_and_callers_of_state_dict_get_the_same_position(corpus: Path, tmp_path: Path) -> None:
    loader = built(corpus)
    next(loader)
    dcp.save({"dataloader": loader}, checkpoint_id=tmp_path, no_dist=True)
    direct, expected = loader.state_dict(), next(loader)[1]
    loaded = built(corpus)
    dcp.load({"dataloader": loaded}, checkpoint_id=tmp_path, no_dist=True)
    assert json.loads(loaded.state_dict()["mixstream"]) == json.loads(direct["mixstream"])
    assert torch.equal(next(loaded)[1], expected)
    loader.close()
    loaded.close()


def test_a_global_batch_that_is_no_whole_number_of_micro_batches_is_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 6"):
        built(corpus, local=3, ranks=2, global_batch_size=8)


@pytest.mark.parametrize(
    "given",
    [{"options": {"batch_size": 2}}, {"dataset": "c4"}, {"dataset_path": None}, {"streams": [ms.Stream(remote="x")]}],
    ids=str,
)
def test_what_would_be_ignored_is_refused(corpus: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"give dataset_path|which follow from other fields"):
        built(corpus, **given)


@pytest.mark.parametrize("state", [{}, {"dp_rank_0": b"", "world_size": 1}])
def test_a_state_of_another_dataloader_is_refused(corpus: Path, state: dict[str, Any]) -> None:
    loader = built(corpus)
    with pytest.raises(StateError, match="exclude_from_loading"):
        loader.load_state_dict(state)
    loader.close()


def test_micro_batches_left_from_before_a_state_was_loaded_are_dropped(corpus: Path) -> None:
    loader = built(corpus, local=4, global_batch_size=8)
    state = loader.state_dict()
    first = next(loader)[1]
    loader.load_state_dict(state)
    assert torch.equal(next(loader)[1], first)
    loader.close()


def test_dp_ranks_of_any_degree_share_out_the_same_global_batches(corpus: Path) -> None:
    whole = built(corpus)
    expected = [next(whole)[0]["input"] for _ in range(3)]
    parts = [built(corpus, local=2, rank=rank, ranks=4) for rank in range(4)]
    for global_batch in expected:
        assert torch.equal(torch.cat([next(part)[0]["input"] for part in parts]), global_batch)
    for loader in (whole, *parts):
        loader.close()


def test_a_domain_that_leaves_ends_the_data_as_torchtitan_expects(corpus: Path) -> None:
    streams = [ms.Stream(remote=str(corpus / "web"), split="train", max_epochs=0.1)]
    loader = built(corpus, dataset_path=None, streams=streams)
    assert 0 < len(list(loader)) < 1000  # torchtitan makes a DataloaderExhaustedError of its end
    assert not list(loader)
    loader.close()


def test_the_sums_by_domain_are_those_of_the_loss_whatever_its_chunks() -> None:
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(8, 11, bias=False), torch.randn(4, 16, 8, requires_grad=True)
    labels = torch.randint(0, 11, (4, 16))
    labels[:, 3] = -100
    valid = (labels != -100).sum()
    reference, _ = CrossEntropyLoss.Config().build()(head(hidden), labels, valid)
    for chunks in (1, 4):
        wrapped = ChunkedLossWrapper.Config(num_chunks=chunks, loss_fn=DomainLoss.Config()).build()
        wrapped.set_lm_head(head)
        domain_loss = wrapped.loss_fn
        domain_loss.totals = torch.zeros(2, 3, dtype=torch.float64)
        domain_loss.domain_B = torch.tensor([0, 2, 2, 0])
        loss, _ = wrapped(hidden, labels, valid)
        loss.backward()
        assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
        assert domain_loss.totals.sum(dim=1).numpy() == pytest.approx(
            np.array([reference.item() * int(valid), int(valid)]), rel=1e-5
        )
        assert domain_loss.totals[:, 1].tolist() == [0, 0]


def test_marked_documents_are_those_between_the_ends(tmp_path):
    rng = np.random.default_rng(0)
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:33"}, out=str(tmp_path / "web")) as writer:
        for _ in range(40):
            row = rng.integers(1, 50, 33).astype(np.uint16)
            row[rng.random(33) < 0.1] = 0
            row[-1] = 5  # repeats of an end at the end of a row would be padding
            writer.write({"tokens": row})

    def made(*, documents: bool) -> MixDataLoader:
        streams = [ms.Stream(remote=str(tmp_path / "web"), eos_id=0)]
        config = MixDataLoader.Config(streams=streams, documents=documents, eos_id=0, global_batch_size=8)
        return MixDataLoader(config, dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=32, local_batch_size=4)

    marked, found, resumed = made(documents=True), made(documents=False), made(documents=True)
    try:
        for _ in range(8):
            (one, labels), (other, expected) = next(marked), next(found)
            assert all(torch.equal(one[name], other[name]) for name in ("input", "positions"))
            assert torch.equal(labels, expected)
        resumed.load_state_dict(marked.state_dict())
        assert torch.equal(next(resumed)[1], next(marked)[1])
    finally:
        for each in (marked, found, resumed):
            each.loader.close()
