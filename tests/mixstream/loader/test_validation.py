from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import FIRST, WIDTH, joined, row_ids, write_tokens

import mixstream as ms
from mixstream.errors import ConfigError, IndexNotFoundError, MixstreamError
from mixstream.feedback.evaluate import evaluate
from mixstream.feedback.losses import domain_cross_entropy
from mixstream.loader.validation import ValidationSet
from mixstream.world import World

HELD_OUT = {"web": 40, "code": 30, "law": 5}
"""Validation rows; their numbers are 500 above those of training."""


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of three domains with the splits train and val; read only."""
    root = tmp_path_factory.mktemp("books")
    for name, size in HELD_OUT.items():
        write_tokens(root / name / "train", range(FIRST[name], FIRST[name] + 8))
        write_tokens(root / name / "val", range(FIRST[name] + 500, FIRST[name] + 500 + size))
    return root


def dataset(root: Path, names=tuple(HELD_OUT), **kw) -> ms.StreamingDataset:
    """Return a dataset over the training splits."""
    streams = [ms.Stream(remote=str(root / name), split="train") for name in names]
    return ms.StreamingDataset(**{"streams": streams, "batch_size": 4, "shuffle": True, **kw})


def opened(root: Path, names=("web", "code"), *, rank=0, world_size=1, **kw) -> ValidationSet:
    """Return the validation set of rank `rank`, 12 rows per domain."""
    return ValidationSet.open(dataset(root, names, rank=rank, world_size=world_size), **{"rows": 12, **kw})


def ids(validation: ValidationSet) -> list[int]:
    """Return the rows of a pass, in order."""
    return joined(map(row_ids, validation))


def test_rows_are_of_the_split_and_the_same_in_every_pass(books):
    with opened(books) as validation:
        first = ids(validation)
        assert ids(validation) == first
        validation.close()
        assert ids(validation) == first
    assert len(set(first)) == 24
    assert sum(1500 <= row < 1540 for row in first) == 12
    assert sum(2500 <= row < 2530 for row in first) == 12
    assert sorted(first) != [*range(1500, 1512), *range(2500, 2512)]  # a sample of the split, not its beginning


def test_a_batch_is_a_loaders_batch(books):
    validation = opened(books)
    batches = list(validation)
    assert len(batches) == len(validation) == 6
    for batch in batches:
        assert isinstance(batch, ms.Batch)
        assert (batch["tokens"].dtype, batch["tokens"].shape) == (torch.int64, (4, WIDTH))
        assert batch["domain"].tolist() == batch.domain.tolist() == [row // 1000 - 1 for row in row_ids(batch)]
        assert batch.step == -1
    narrow = next(iter(opened(books, widen=False)))
    assert narrow["tokens"].dtype == torch.uint16


def test_what_is_done_to_a_batch_does_not_reach_the_next_pass(books):
    validation = opened(books)
    before = ids(validation), [batch.domain.tolist() for batch in validation]
    for batch in validation:
        batch["tokens"].zero_()
        batch["domain"].zero_()
    assert (ids(validation), [batch.domain.tolist() for batch in validation]) == before


@pytest.mark.parametrize("world", [1, 2, 3, 5, 7, 24])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_ranks_share_the_rows_in_equally_many_batches(books, world, batch_size):
    sets = [opened(books, rank=rank, world_size=world, batch_size=batch_size) for rank in range(world)]
    assert sorted(joined(map(ids, sets))) == sorted(ids(opened(books)))
    assert len({len(validation) for validation in sets}) == 1
    for validation in sets:
        sizes = [len(batch["tokens"]) for batch in validation]
        assert len(sizes) == len(validation)
        assert min(sizes) >= 1
        assert max(sizes) <= max(batch_size, 2)


def test_the_choice_depends_on_names_and_seed_alone(books):
    chosen = sorted(ids(opened(books)))
    assert sorted(ids(opened(books, ("code", "web"), batch_size=7))) == chosen
    assert sorted(ids(opened(books, rows=20, seed=1))) != sorted(ids(opened(books, rows=20)))
    assert sorted(ids(ValidationSet.open(dataset(books, ("web", "code"), shuffle_seed=5), rows=12))) != chosen
    assert set(chosen) < set(ids(opened(books, rows=20)))


def test_domains_are_in_the_order_of_the_streams(books):
    validation = opened(books, ("code", "web"), rows=3)
    assert validation.names == ("code", "web")
    assert [batch.domain.tolist() for batch in validation] == [[0, 0, 0], [1, 1, 1]]


def test_a_small_split_is_used_whole_and_that_is_said(books):
    with pytest.warns(UserWarning, match=r"are smaller than rows=12, as their splits are: \{'law': 5\}"):
        validation = ValidationSet.open(dataset(books), rows=12)
    assert validation.rows_K.tolist() == [12, 12, 5]
    assert {row for row in ids(validation) if row > 3000} == set(range(3500, 3505))
    assert validation.describe().splitlines()[1:] == [
        "web       12        40",
        "code      12        30",
        "law        5         5",
    ]
    assert repr(validation) == "ValidationSet([web, code, law], rows=29, rank 0 of 1)"


def test_only_the_first_rank_warns(books):
    assert len(ids(ValidationSet.open(dataset(books, rank=1, world_size=2), rows=12))) == 14


def test_there_are_rows_for_every_rank(books):
    with pytest.raises(ConfigError, match="2 validation rows are fewer than the 3 ranks"):
        opened(books, rows=1, world_size=3)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"batch_size": 0}, {"rows": 2.5}])
def test_sizes_are_whole_numbers(books, wrong):
    with pytest.raises(
        ConfigError, match=r"`ValidationSet (rows|batch_size)` (must be at least 1|is a whole number), got"
    ):
        opened(books, **wrong)


def test_a_path_that_ends_in_train_stands_for_a_split(books, tmp_path):
    plain = ms.StreamingDataset(
        streams=[ms.Stream(name="web", remote=str(books / "web" / "train") + "/", local=str(tmp_path / "train"))],
        batch_size=4,
    )
    assert sorted(ids(ValidationSet.open(plain, rows=40))) == list(range(1500, 1540))


def test_another_split_may_be_named(books):
    moved = dataset(books, ("web",))
    moved.streams[0].split = "val"
    assert sorted(ids(ValidationSet.open(moved, split="train", rows=8))) == list(range(1000, 1008))
    with pytest.raises(ConfigError, match="is trained on the split 'val' itself"):
        ValidationSet.open(moved)


def test_a_stream_that_names_no_split_has_to(books):
    plain = ms.StreamingDataset(remote=str(books / "web" / "val"), batch_size=4)
    with pytest.raises(
        ConfigError, match=r'the place of its \'val\' rows is not known: give Stream\(..., split="train"'
    ):
        ValidationSet.open(plain)


def test_a_split_that_is_not_there_is_named(books):
    with pytest.raises(IndexNotFoundError) as caught:
        opened(books, split="dev")
    assert "domain 'web' has no validation rows at" in caught.value.__notes__[-1]


def test_streams_may_be_given_by_name(books):
    given = [ms.Stream(name=name, remote=str(books / name / "train")) for name in ("code", "web")]
    validation = opened(books, streams=given, rows=8)
    assert validation.names == ("web", "code")
    assert sorted(ids(validation)) == [*range(1000, 1008), *range(2000, 2008)]
    with pytest.raises(ConfigError, match=r"named \['code'\], the dataset's domains \['code', 'web'\]"):
        opened(books, streams=given[:1])
    with pytest.raises(ConfigError, match="give one stream per domain"):
        opened(books, streams=[])


def test_a_split_without_rows_is_refused(books, tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": []}))
    with pytest.raises(MixstreamError, match="no samples"):
        opened(books, ("web",), streams=[ms.Stream(name="web", remote=str(tmp_path))])


class Texts(ms.StreamingDataset):
    """A dataset with items of its own."""

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, str]:
        del retry
        return {"text": f"row {sample_id}"}


def test_columns_of_any_kind_are_collated(books, tmp_path):
    for split in ("train", "val"):
        with ms.MDSWriter(columns={"text": "str", "score": "float32"}, out=str(tmp_path / split)) as writer:
            for number in range(6):
                writer.write({"text": f"{split} {number}", "score": np.float32(number / 2)})
    streams = [ms.Stream(name="notes", remote=str(tmp_path), split="train")]
    (batch,) = ValidationSet.open(ms.StreamingDataset(streams=streams, batch_size=6), rows=6)
    found = dict(zip(batch["text"], batch["score"].tolist()))
    assert found == {f"val {number}": number / 2 for number in range(6)}
    assert batch["domain"].tolist() == [0] * 6

    own = Texts(streams=streams, batch_size=6)
    with pytest.raises(ConfigError, match="Texts overrides get_item, which validation rows do not pass through"):
        ValidationSet.open(own, rows=6)
    short = ValidationSet.open(own, rows=6, collate_fn=lambda samples: {"length": [len(s["text"]) for s in samples]})
    assert [batch["length"] for batch in short] == [[5] * 6]
    with pytest.raises(ConfigError, match="collate_fn returned a list"):
        next(iter(ValidationSet.open(own, rows=6, collate_fn=list)))


def test_tensors_are_delivered_on_the_device(books):
    batch = next(iter(opened(books, device="meta")))
    assert batch["tokens"].is_meta
    assert batch["domain"].is_meta
    assert isinstance(batch.domain, np.ndarray)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def row_loss(batch: ms.Batch) -> torch.Tensor:
    """Return a loss per row, a multiple of 1/64, so that sums are exact in any order."""
    return (batch["tokens"][:, 0] * 37 % 101).float() / 64


def expected(validation: ValidationSet) -> tuple[list[float], list[float]]:
    """Return the sums and counts of `row_loss` over a pass, one row at a time."""
    sums, counts = [0.0, 0.0], [0.0, 0.0]
    for row in ids(validation):
        sums[row // 1000 - 1] += row * 37 % 101 / 64
        counts[row // 1000 - 1] += 1
    return sums, counts


def test_losses_are_summed_over_all_rows(books):
    validation = opened(books)
    sums_K, counts_K = evaluate(row_loss, validation)
    assert (sums_K.dtype, counts_K.dtype) == (np.float64, np.float64)
    assert (sums_K.tolist(), counts_K.tolist()) == expected(validation)
    assert counts_K.tolist() == [12, 12]


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_sums_add_up(books, world):
    parts = [evaluate(row_loss, opened(books, rank=rank, world_size=world)) for rank in range(world)]
    assert np.array_equal(np.sum(parts, axis=0), np.array(evaluate(row_loss, opened(books))))


def test_losses_may_be_per_token_masked_or_summed(books):
    validation = opened(books)

    def masked(batch: ms.Batch) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.zeros(len(batch["tokens"]), WIDTH)
        mask[:, :3] = 1
        return row_loss(batch)[:, None].expand(-1, WIDTH), mask

    rows = np.array(evaluate(row_loss, validation))
    tokens = np.array(evaluate(lambda batch: row_loss(batch).repeat_interleave(WIDTH), validation))
    assert np.array_equal(tokens, WIDTH * rows)
    assert np.array_equal(evaluate(masked, validation), 3 * rows)
    summed = evaluate(lambda batch: (None, *ms.domain_sums(row_loss(batch), batch["domain"], 2)), validation)
    assert np.array_equal(summed, rows)


def test_a_models_mean_loss_is_what_it_is_computed_directly(books):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(4000, 8), torch.nn.Dropout(), torch.nn.Linear(8, 8))
    head = torch.randn(4000, 8)
    validation = opened(books)

    def loss(batch: ms.Batch):
        hidden = model(batch["tokens"][:, :-1])
        return domain_cross_entropy(hidden, head, batch["tokens"][:, 1:], batch["domain"], domains=2)

    sums_K, counts_K = evaluate(loss, validation, model=model)
    model.eval()
    for domain in range(2):
        tokens = torch.cat([batch["tokens"][batch["domain"] == domain] for batch in validation])
        logits = model(tokens[:, :-1]) @ head.T
        mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        assert sums_K[domain] / counts_K[domain] == pytest.approx(mean.item(), rel=1e-5)


def test_the_model_is_evaluated_and_left_as_it_was(books):
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    model.train()
    model[1].eval()
    seen = []

    def loss(batch: ms.Batch) -> torch.Tensor:
        seen.append([module.training for module in model.modules()])
        out = model(row_loss(batch)[:, None])[:, 0]
        assert not out.requires_grad
        return out

    evaluate(loss, opened(books), model=model)
    assert seen == [[False] * 3] * 6
    assert [module.training for module in model.modules()] == [True, True, False]
    with pytest.raises(ConfigError):
        evaluate(lambda batch: None, opened(books), model=model)
    assert [module.training for module in model.modules()] == [True, True, False]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (1.5, r"model_loss returned float: return losses per row \[B\]"),
        ((None, torch.zeros(3), torch.zeros(3)), r"\(NoneType, a tensor \[3\], a tensor \[3\]\).* the 2 domains"),
        (torch.tensor(1.0), 'reduction="none"'),
    ],
)
def test_a_loss_that_cannot_be_split_by_domain_is_refused(books, result, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(lambda batch: result, opened(books))


def test_a_set_can_be_made_of_domains_alone(books):
    domains = dataset(books).domains
    validation = ValidationSet(domains=domains, rows=3, batch_size=9, seed=0, world=World())
    assert [batch.domain.tolist() for batch in validation] == [[0, 0, 0, 1, 1, 1, 2, 2, 2]]
