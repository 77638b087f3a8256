"""Many domains are located by one table, to the same addresses as one by one."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.plan import layouts
from mixstream.plan.addressing import Addressing, WholeShards
from mixstream.plan.shuffle import Order
from mixstream.plan.weights import deal
from mixstream.types import Rows


class Reversed(WholeShards):
    """A view that reads a shard from its end."""

    def rows(self, shard_B, sample_B):
        return self.samples_S[shard_B] - 1 - sample_B


def addressing(K, lanes, *, shuffle, seed=0):
    random, orders, views = np.random.default_rng(seed), [], []
    for k in range(K):
        view = (Reversed if k % 3 == 1 else WholeShards)(samples_S=random.integers(1, 30, random.integers(1, 6)))
        owned_L = deal([int(view.samples_S.sum())], lanes)[:, 0]
        orders.append(
            Order(name=f"d{k}", seed=7, samples_S=view.samples_S, owned_L=owned_L, shuffle=shuffle, block_size=9)
        )
        views.append(view)
    return Addressing(orders=tuple(orders), views=tuple(views), lanes=lanes)


def expected(at, rows, part):
    """Return the addresses that each domain's order gives."""
    lane_B = np.arange(len(rows.domain_B)) // (len(rows.domain_B) // at.lanes)
    found = []
    for b in range(*part.indices(len(rows.domain_B))):
        one = at.of_draws(domain=int(rows.domain_B[b]), lane=int(lane_B[b]), draw_B=rows.draw_B[b : b + 1])
        found.append((int(one.shard_B[0]), int(one.row_B[0])))
    return found


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 1 << 20))
def test_addresses_are_those_of_each_domain_over_epochs_and_seeks(K, lanes, shuffle, seed):
    at, random = addressing(K, lanes, shuffle=shuffle, seed=seed), np.random.default_rng(seed)
    for base in (0, 40, 80, 0, 5000, 120):  # epochs pass, and a run may go back
        rows = Rows(
            step=0,
            domain_B=random.integers(0, K, 64).astype(np.int32),
            draw_B=base + random.integers(0, 60, 64),
        )
        part = slice(0, 64) if base % 3 else slice(16, 48)
        (found,) = at.locate([rows], part)
        assert list(zip(found.shard_B.tolist(), found.row_B.tolist())) == expected(at, rows, part)


def test_domains_too_large_for_the_table_are_located_beside_those_in_it(monkeypatch):
    monkeypatch.setattr(layouts, "_FEW_PIECES", 3)
    monkeypatch.setattr(layouts, "_MOST_PIECES", 0)
    at, random = addressing(40, 2, shuffle=True), np.random.default_rng(1)
    for _ in range(4):
        domain_B, draw_B = random.integers(0, 40, 64).astype(np.int32), random.integers(0, 60, 64)
        (found,) = at.locate([rows := Rows(step=0, domain_B=domain_B, draw_B=draw_B)], slice(0, 64))
        assert list(zip(found.shard_B.tolist(), found.row_B.tolist())) == expected(at, rows, slice(0, 64))


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="without numba, each domain is asked")
def test_a_domain_is_asked_once_and_then_found_in_the_table(monkeypatch):
    at, asked = addressing(200, 1, shuffle=True), []
    monkeypatch.setattr(Order, "find", lambda self, **where: asked.append(self.name) or find(self, **where))
    rows = Rows(step=0, domain_B=np.arange(200, dtype=np.int32), draw_B=np.zeros(200, dtype=np.int64))
    for _ in range(5):
        at.locate([rows], slice(0, 200))
    assert len(asked) == len(set(asked)) == 200


find = Order.find
