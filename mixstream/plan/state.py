"""A run's position as one small versioned JSON document, the same on every rank.

`RunState` is the document, `save_state` builds it from a cursor, and `load_state` returns the cursor. A state that does
not fit the run raises `StateError`; it is never reinterpreted. Keys that mosaicml-streaming's state has too keep their
names.

The size is O(domains x lanes): no sample numbers, no random generator, nothing of a single rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from mixstream.errors import StateError
from mixstream.plan.plan import Plan
from mixstream.types import Cursor, Int64

VERSION = 2
_PER_RANK = ("global_batch_size",)
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
Carry = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]


class DomainState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one domain: `drawn`, `base` and `credit` have one number per lane (`types.Cursor`)."""

    name: str
    fingerprint: str
    samples: Count
    choose: Count
    max_epochs: float | None
    drawn: list[Count]
    base: list[Count]
    credit: list[Carry]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a run must share with the run that saved its state; its domains are compared separately."""

    shuffle_seed: int
    num_canonical_nodes: Positive
    global_batch_size: Positive
    shuffle: bool
    shuffle_block_size: int
    epoch_size: Count
    drop_last: bool
    mixer: str
    lag: int | None


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """A sample, or with row None a whole shard, that cannot be read and is replaced."""

    domain: str
    shard: Count
    row: Count | None


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The document, as `parse_state` has checked it."""

    mixstream: int
    epoch: Count
    sample_in_epoch: Count
    num_canonical_nodes: Positive
    shuffle_seed: int
    initial_physical_nodes: int | None
    step: Count
    repeats: Count
    settings: Settings
    domains: list[DomainState]
    total: list[Positive]
    mixing: dict[str, Any] | None
    quarantined: list[SetAside] = []

    @property
    def known(self) -> set[tuple[str, str]]:
        """Name and fingerprint of each domain."""
        return {(domain.name, domain.fingerprint) for domain in self.domains}


def save_state(
    *,
    plan: Plan,
    cursor: Cursor,
    settings: Settings,
    fingerprints: Sequence[str],
    choose_K: Int64,
    mixing: dict[str, Any] | None,
    quarantined: Sequence[SetAside] = (),
) -> dict[str, Any]:
    """Return the state at `cursor` as a plain dict.

    >>> plan = Plan(names=("code", "web"), samples_K=np.array([3, 9]), choose_K=np.array([3, 9]), epoch_size=12,
    ...             global_batch_size=4)
    >>> settings = Settings(shuffle_seed=17, num_canonical_nodes=1, global_batch_size=4, shuffle=False,
    ...                     shuffle_block_size=8, epoch_size=12, drop_last=False, mixer="static", lag=None)
    >>> domains = {"fingerprints": ["c0de", "3eb0"], "choose_K": plan.choose_K}
    >>> cursor, rows = plan.advance(plan.start())
    >>> document = save_state(plan=plan, cursor=cursor, settings=settings, mixing=None, **domains)
    >>> document["step"], document["sample_in_epoch"], [(d["name"], d["drawn"]) for d in document["domains"]]
    (1, 4, [('code', [1]), ('web', [3])])
    >>> state = parse_state(document)
    >>> loaded, same = load_state(state, plan=plan, settings=settings, fresh=plan.start(), strict=True, **domains)
    >>> loaded.drawn_LK.tolist(), same
    ([[1, 3]], True)

    Args:
        plan: the run's plan.
        cursor: the position.
        settings: the run's settings.
        fingerprints: those of the domains, in the plan's order.
        choose_K: int64 [K], rows that an epoch takes from each domain, or the prior in rows.
        mixing: the state of a learning mixer as JSON values; None for static mixing.
        quarantined: samples and shards that cannot be read and are replaced.
    """
    cursor = plan.settle(cursor)
    domains = [
        DomainState(
            name=name,
            fingerprint=fingerprints[k],
            samples=int(plan.samples_K[k]),
            choose=int(choose_K[k]),
            max_epochs=plan.max_epochs_K[k] if plan.max_epochs_K else None,
            drawn=cursor.drawn_LK[:, k].tolist(),
            base=cursor.base_LK[:, k].tolist(),
            credit=cursor.credit_LK[:, k].tolist(),
        )
        for k, name in enumerate(plan.names)
    ]
    state = RunState(
        mixstream=VERSION,
        epoch=cursor.epoch,
        sample_in_epoch=cursor.step_in_epoch * plan.global_batch_size,
        num_canonical_nodes=plan.lanes,
        shuffle_seed=settings.shuffle_seed,
        initial_physical_nodes=None,
        step=cursor.step,
        repeats=cursor.repeats,
        settings=settings,
        domains=domains,
        total=cursor.total_L.tolist(),
        mixing=mixing,
        quarantined=list(quarantined),
    )
    return msgspec.to_builtins(state)


def parse_state(document: Mapping[str, Any]) -> RunState:
    """Check the form of `document` and return it as a `RunState`.

    Raises:
        StateError: it is not a state, has another version, or is damaged.
    """
    version = document.get("mixstream") if isinstance(document, Mapping) else None
    if version != VERSION:
        keys = sorted(document) if isinstance(document, Mapping) else type(document).__name__
        for key, value in document.items() if isinstance(document, Mapping) else ():
            if isinstance(value, Mapping) and value.get("mixstream") == VERSION:
                raise StateError(f"this is a checkpoint, and the state is in it: load checkpoint[{key!r}]")
        raise StateError(
            f"this is not a state of mixstream's version {VERSION} (its 'mixstream' entry is {version!r}; it has {keys}"
            "): a state of mosaicml-streaming or of another version cannot be resumed exactly; start without it"
        )
    try:
        state = msgspec.convert(dict(document), RunState)
    except msgspec.ValidationError as error:
        raise StateError(f"the state is damaged: {error}; load an older checkpoint") from error
    if wrong := _contradiction(state):
        raise StateError(f"the state is damaged: {wrong}; load an older checkpoint")
    return state


def _contradiction(state: RunState) -> str:
    """Return a description of how the parts of `state` contradict each other; empty if they are consistent."""
    lanes, names = state.num_canonical_nodes, [domain.name for domain in state.domains]
    if len(set(names)) < len(names):
        return f"it has domains twice: {names}"
    for domain in state.domains:
        if {len(domain.drawn), len(domain.base), len(domain.credit)} != {lanes}:
            return f"domain {domain.name!r} does not have one cursor for each of {lanes} lanes"
    if len(state.total) != lanes or any(map(sum, zip(*(domain.credit for domain in state.domains)))):
        return "the rounding carry does not add up"
    if state.sample_in_epoch % state.settings.global_batch_size or state.sample_in_epoch > state.settings.epoch_size:
        return f"{state.sample_in_epoch} is no number of samples between two steps of an epoch"
    return ""


def load_state(
    state: RunState,
    *,
    plan: Plan,
    settings: Settings,
    fingerprints: Sequence[str],
    choose_K: Int64,
    fresh: Cursor,
    strict: bool,
) -> tuple[Cursor, bool]:
    """Return the cursor that `state` describes, in this run's plan, and whether this run saved the state.

    With `strict=False`, the state of another run is used in part: domains that both runs have (same name and
    fingerprint) keep their draws, and a new epoch begins. The cursor `fresh` supplies the draws of other domains and
    all credits.

    Raises:
        StateError: with `strict`, the runs differ, and the message lists all differences; without it, they have a
            different number of lanes.
    """
    found = differences(state, plan=plan, settings=settings, fingerprints=fingerprints, choose_K=choose_K)
    if not found:
        lanes = state.num_canonical_nodes
        by_name = {domain.name: domain for domain in state.domains}
        table = {
            key: np.array([getattr(by_name[name], key) for name in plan.names], dtype=np.int64).reshape(-1, lanes).T
            for key in ("drawn", "base", "credit")
        }
        cursor = Cursor(
            step=state.step,
            epoch=state.epoch,
            step_in_epoch=state.sample_in_epoch // plan.global_batch_size,
            drawn_LK=np.ascontiguousarray(table["drawn"]),
            base_LK=np.ascontiguousarray(table["base"]),
            credit_LK=np.ascontiguousarray(table["credit"]),
            total_L=np.array(state.total, dtype=np.int64),
            repeats=state.repeats,
        )
        return cursor, True
    if strict:
        raise StateError(
            "this state was saved by another run:\n  - " + "\n  - ".join(found) + "\n"
            "Make these equal to resume exactly, or call load_state_dict(state, strict=False) to keep the positions of "
            "the domains that still match and begin a new epoch with the settings of this run"
        )
    return _carry_over(state, plan=plan, fingerprints=fingerprints, fresh=fresh), False


def differences(
    state: RunState, *, plan: Plan, settings: Settings, fingerprints: Sequence[str], choose_K: Int64
) -> list[str]:
    """Return the differences between the run that saved `state` and this one, a sentence each."""
    found = []
    labels = {"num_canonical_nodes": "lanes (num_canonical_nodes)", "mixer": "mixing method"}
    for field in msgspec.structs.fields(Settings):
        theirs, ours = getattr(state.settings, field.name), getattr(settings, field.name)
        if theirs != ours:
            hint = f" (batch_size is per rank: batch_size x ranks must be {theirs})" if field.name in _PER_RANK else ""
            found.append(f"{labels.get(field.name, field.name)}: saved {theirs!r}, now {ours!r}{hint}")
    saved = {domain.name: domain for domain in state.domains}
    if gone := sorted(set(saved) - set(plan.names)):
        found.append(f"domains in the state and not in this run: {gone}")
    if plan.in_order and not gone and list(saved) != list(plan.names) and set(saved) == set(plan.names):
        found.append(f"domains are read in order, and the order was {list(saved)}, now {list(plan.names)}")
    for k, name in enumerate(plan.names):
        if name not in saved:
            found.append(f"domain {name!r} is not in the state; it has {sorted(saved)}")
        elif saved[name].fingerprint != fingerprints[k]:
            was, now = saved[name].fingerprint[:8], fingerprints[k][:8]
            found.append(f"domain {name!r} has other shards (fingerprint {was}, now {now})")
        elif saved[name].choose != int(choose_K[k]):
            found.append(f"domain {name!r}: an epoch took {saved[name].choose} samples, now {int(choose_K[k])}")
        elif saved[name].max_epochs != (limit := plan.max_epochs_K[k] if plan.max_epochs_K else None):
            found.append(f"domain {name!r}: max_epochs was {saved[name].max_epochs}, now {limit}")
    return found


def _carry_over(state: RunState, *, plan: Plan, fingerprints: Sequence[str], fresh: Cursor) -> Cursor:
    drawn_LK = fresh.drawn_LK.copy()
    saved = {domain.name: domain for domain in state.domains}
    for k, name in enumerate(plan.names):
        domain = saved.get(name)
        if domain is None or domain.fingerprint != fingerprints[k]:
            continue
        if len(domain.drawn) != plan.lanes:
            raise StateError(
                f"the state has {len(domain.drawn)} lanes and this run has {plan.lanes}, so its positions mean other "
                f"samples: pass num_canonical_nodes={len(domain.drawn)}"
            )
        drawn_LK[:, k] = domain.drawn
    return Cursor(
        step=state.step,
        epoch=state.epoch,
        step_in_epoch=0,
        drawn_LK=drawn_LK,
        base_LK=drawn_LK,
        credit_LK=fresh.credit_LK,
        total_L=fresh.total_L,
        repeats=state.repeats,
    )
