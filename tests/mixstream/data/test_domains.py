from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness import FIRST, SIZES, make_dataset, row_ids

import mixstream as ms
from mixstream.data.collate import Column
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError
from mixstream.types import Addresses

INT64 = np.dtype(np.int64)


def test_addresses_are_cut_like_lists():
    at = Addresses(domain_B=np.array([0, 1, 2]), shard_B=np.array([3, 4, 5]), row_B=np.array([6, 7, 8]))
    assert len(at) == 3
    assert (at[1:].domain_B.tolist(), at[1:].shard_B.tolist(), at[:2].row_B.tolist()) == ([1, 2], [4, 5], [6, 7])


def test_domains_are_in_the_order_of_their_characters():
    """Capitals come first; in another order, saved runs would go on with other rows."""
    listed: list[Any] = [SimpleNamespace(name=name) for name in ("b", "_", "Ä", "a10", "B", "a9", "A")]
    domains = Domains.of(listed, as_listed=False)
    assert [domain.name for domain in domains] == ["A", "B", "_", "a10", "a9", "b", "Ä"]
    assert domains.listed == listed
    assert list(Domains.of(listed, as_listed=True)) == listed


def test_gathering_is_reading_sample_by_sample(library):
    dataset = make_dataset(library)
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 219, 60)
    shard_B, row_B = np.array([dataset.find(int(number)) for number in numbers]).T
    domain_B = np.searchsorted(dataset.domains.shard_offset_K, shard_B, side="right") - 1
    at = Addresses(domain_B=domain_B, shard_B=shard_B, row_B=row_B)
    assert dataset.number(at).tolist() == numbers.tolist()
    columns = dataset.domains.columns(widen=True)
    assert columns is not None
    assert columns == {"tokens": Column(dtype=INT64, varies=False)}
    got = dataset.domains.gather(at, columns, lambda dtype, shape: np.empty(shape, dtype))
    assert got is not None
    expected = [dataset[int(number)]["tokens"] for number in numbers]
    assert np.array_equal(got["tokens"], np.stack(expected))


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("together", [1, 3, 28])
def test_addresses_do_not_depend_on_how_many_are_looked_up_together(library, lanes, together):
    run = make_dataset(library, num_canonical_nodes=lanes, rank=1, world_size=2, batch_size=4).run
    walk = run.walk(run.start(), None)
    steps: list[Any] = [walk.advance() for _ in range(28)]
    for at in range(0, 28, together):
        part = steps[at : at + together]
        for rows, found in zip(part, run.run_plan.addressing.locate(part, run.run_plan.part)):
            (alone,) = run.run_plan.addressing.locate([rows], run.run_plan.part)
            (whole,) = run.run_plan.addressing.locate([rows], slice(0, 8))
            for one, other, of_all in zip(*((x.domain_B, x.shard_B, x.row_B) for x in (found, alone, whole[4:]))):
                assert one.tolist() == other.tolist() == of_all.tolist()


def test_domains_of_different_columns_are_not_stacked(tmp_path: Path):
    for name, column in (("a", "x"), ("b", "y")):
        with ms.MDSWriter(columns={column: "int"}, out=str(tmp_path / name)) as writer:
            for number in range(8):
                writer.write({column: number})
    with pytest.raises(ConfigError, match="different columns: 'a': x; 'b': y"):
        make_dataset(tmp_path, ["a", "b"])
    with ms.Loader(make_dataset(tmp_path, ["a", "b"], mixed_rows=True)) as loader, pytest.raises(KeyError):
        list(loader)


def test_a_domain_is_counted_as_the_user_listed_it(library):
    with ms.Loader(make_dataset(library, ["law", "web", "code"])) as loader:
        batch = next(iter(loader))
    names = ["law", "web", "code"]
    for number, domain in zip(row_ids(batch), batch.domain.tolist()):
        assert FIRST[names[domain]] <= number < FIRST[names[domain]] + SIZES[names[domain]]
