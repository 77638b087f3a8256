"""How the parts of a state contradict each other, whatever run loads it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from mixstream.arguments import MOST
from mixstream.plan.state_differences import stream_of
from mixstream.plan.state_record import IteratorState, RunState

_LONGEST_SKIP = 1 << 26
"""Steps to come that a state leaves out; `skip` refuses a quarter of them at once."""


def contradictions(state: RunState) -> Iterator[str]:
    """Yield descriptions of how the parts of `state` contradict each other."""
    yield from _of_domains(state)
    yield from _of_steps(state)
    if isinstance(state.iterator, IteratorState):
        yield from _of_iterator(state, state.iterator)


def _of_domains(state: RunState) -> Iterator[str]:
    lanes, names = state.num_canonical_nodes, [domain.name for domain in state.domains]
    if len(set(names)) < len(names):
        yield f"it has domains twice: {names}"
    if state.settings.shuffle and names != sorted(names):  # samples are dealt to lanes in the order of domains
        yield f"its domains are listed as {names}, which are sorted in every run that is not read in order"
    for domain in state.domains:
        if {*map(len, (domain.drawn, domain.base, domain.credit, domain.began or domain.drawn))} != {lanes}:
            yield f"domain {domain.name!r} does not have one cursor for each of {lanes} lanes"
        if (domain.began is UNSET) != (state.began is UNSET):
            yield f"it went on from another run, and does not say from which draws of domain {domain.name!r}, or when"
        if domain.owned is not UNSET and not _is_dealt(domain.owned, domain.samples, lanes):
            yield f"the {domain.samples} samples of domain {domain.name!r} are not those of its lanes, {domain.owned}"
    if len(state.total) != lanes or any(map(sum, zip(*(domain.credit for domain in state.domains)))):
        yield "the rounding carry does not add up"
    if strange := {entry.domain for entry in state.quarantined} - {*names, *map(stream_of, names)}:
        yield f"it sets samples aside of {sorted(strange)}, which are not among its domains {names}"


def _of_steps(state: RunState) -> Iterator[str]:
    saved = state.settings
    if (state.num_canonical_nodes, state.shuffle_seed) != (saved.num_canonical_nodes, saved.shuffle_seed):
        both = f"{state.num_canonical_nodes} lanes and the seed {state.shuffle_seed}"
        yield f"it has {both}, and its settings have others"
    if (nodes := state.initial_physical_nodes) is not None and nodes < 1:
        yield f"it began on {nodes} nodes"
    if state.sample_in_epoch % saved.global_batch_size:
        yield f"{state.sample_in_epoch} is no number of samples between two steps"
    if state.skipped is not UNSET and state.skips.document() != state.skipped:
        yield f"the steps that it leaves out, {state.skipped}, are no ranges that rise"
    if (skipped := state.skips.count(state.step, MOST)) > _LONGEST_SKIP:
        yield f"it leaves out {skipped} steps to come"


def _of_iterator(state: RunState, place: IteratorState) -> Iterator[str]:
    turn = place.batch_size * place.workers if place.workers > 1 else 1
    if not (place.rows < place.batch_rows and place.worker < place.workers and place.phase < turn):
        yield f"its iterator is worker {place.worker} of {place.workers}, at row {place.rows} of {place.batch_rows}"
    if place.epoch != state.epoch and (place.epoch, state.sample_in_epoch, place.rows) != (state.epoch - 1, 0, 0):
        yield f"its iterator is in epoch {place.epoch}, and the state in epoch {state.epoch}"
    if state.settings.global_batch_size % place.batch_rows:
        yield f"its iterator has {place.batch_rows} rows of a global batch of {state.settings.global_batch_size}"


def _is_dealt(owned_L: list[int], samples: int, lanes: int) -> bool:
    return len(owned_L) == lanes and sum(owned_L) == samples and max(owned_L) - min(owned_L) <= 1
