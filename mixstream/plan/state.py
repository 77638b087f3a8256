"""A run's position as one small versioned JSON document, the same on every rank.

`RunState` is the document; `save_state` makes it from a cursor, `load_state` turns it back, or refuses it: a state that
does not fit the run is never reinterpreted. Keys that mosaicml-streaming's state has keep its names.

What is stored is O(domains x lanes); no sample numbers, no random generator, nothing of other ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from mixstream.errors import StateError
from mixstream.types import Cursor, Int64

if TYPE_CHECKING:  # so that reading a state does not compile the kernels
    from mixstream.plan.plan import Plan

VERSION = 2
_PER_RANK = ("global_batch_size",)
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
Carry = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]


class DomainState(msgspec.Struct, frozen=True, kw_only=True):
    """One domain's part: `drawn`, `base` and `credit` have one number per lane (`types.Cursor`)."""

    name: str
    fingerprint: str
    samples: Count
    choose: Count
    max_epochs: float | None
    drawn: list[Count]
    base: list[Count]
    credit: list[Carry]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run must have in common with the run that saved the state, beside the domains."""

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
    """A sample that cannot be read, or (row None) a whole shard."""

    domain: str
    shard: Count
    row: Count | None


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The document."""

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
    """Return the document of `cursor` as a plain dict.

    `fingerprints` and `choose_K` (what an epoch takes, or the prior) are the domains', in the plan's order;
    `quarantined` is what is set aside.
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
    """Return `document` checked for form.

    Raises:
        StateError: it is not a state, or one of another version.
    """
    version = document.get("mixstream") if isinstance(document, Mapping) else None
    if version != VERSION:
        keys = sorted(document) if isinstance(document, Mapping) else type(document).__name__
        for key, value in document.items() if isinstance(document, Mapping) else ():
            if isinstance(value, Mapping) and value.get("mixstream") == VERSION:
                raise StateError(f"this is a checkpoint, and the state is in it: load checkpoint[{key!r}]")
        raise StateError(
            f"this is not a state of mixstream's version {VERSION} (its 'mixstream' entry is {version!r}; it has {keys}"
            "): a state of mosaicml-streaming or of another version cannot be continued exactly; start without it"
        )
    try:
        state = msgspec.convert(dict(document), RunState)
    except msgspec.ValidationError as error:
        raise StateError(f"the state is damaged: {error}; load an older checkpoint") from error
    if wrong := _contradiction(state):
        raise StateError(f"the state is damaged: {wrong}; load an older checkpoint")
    return state


def _contradiction(state: RunState) -> str:
    """Return in what the parts of `state` contradict each other; empty if they do not."""
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
    """Return the cursor that `state` describes, in this run's plan, and whether it is that very run's.

    With `strict=False` a state of another run gives its cursors to the domains that it has in common with this one
    (same name, same fingerprint); a new epoch begins there, and `fresh` supplies what is new.

    Raises:
        StateError: with `strict`, something differs; the message names everything that does.
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
            "Make these equal to go on exactly, or call load_state_dict(state, strict=False) to keep the positions of "
            "the domains that still match and begin a new epoch with the settings of this run"
        )
    return _carry_over(state, plan=plan, fingerprints=fingerprints, fresh=fresh), False


def differences(
    state: RunState, *, plan: Plan, settings: Settings, fingerprints: Sequence[str], choose_K: Int64
) -> list[str]:
    """Return, as sentences, in what the run that saved `state` differs from this one."""
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
