"""The `order.Order` of `order="megatron"`: our own, which also goes on where a run of Megatron stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import get_worker_info

from mixstream.arguments import whole
from mixstream.data.bad_samples import Quarantine
from mixstream.errors import StateError
from mixstream.loader.mosaic_order.switch import is_mosaic_state
from mixstream.loader.own_order import OwnOrder
from mixstream.plan.megatron import MegatronPlan

CONSUMED = "consumed_samples"


class MegatronSamples(OwnOrder):
    """The `order.Order` of a dataset with `order="megatron"`. Its states are ours."""

    def load_state_dict(self, dataset: Any, state: Mapping[str, Any], *, strict: bool) -> None:
        """Go on from `state`, or after {"consumed_samples": N}, the `consumed_train_samples` of a run of Megatron.

        Raises:
            StateError: the state does not fit; the message says why.
        """
        if _is_consumed(state) and get_worker_info() is None:
            state = self._after(dataset, state)
        elif is_mosaic_state(state):
            raise StateError(
                'this is a state of mosaicml-streaming, and order="megatron" reads other samples: go on with '
                'order="mosaic", or load {"consumed_samples": N}'
            )
        try:
            super().load_state_dict(dataset, state, strict=True)
        except StateError as error:
            if strict:
                raise
            raise StateError(
                f'{error}\nstrict=False keeps no positions under order="megatron", whose samples are others with any '
                f'other setting: to go on at a place of this run, load {{"{CONSUMED}": N}}'
            ) from None

    def check_between_steps(self, state: Mapping[str, Any], loader: str) -> None:
        """Check that `loader` can begin at the place of `state`; a count of samples is checked when it is loaded."""
        if not _is_consumed(state):
            super().check_between_steps(state, loader)

    def _after(self, dataset: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return our state after so many samples of this run.

        Raises:
            StateError: they are no whole steps, or more than the run has.
        """
        if set(state) != {CONSUMED}:
            raise StateError(f"a state with {CONSUMED!r} has nothing else, and this one has {sorted(state)}")
        consumed = whole(CONSUMED, state[CONSUMED], least=0, of="samples")
        run = self._position_of(dataset, self.world(dataset), None, Quarantine(dataset.domains)).run
        plan = run.plan
        assert isinstance(plan, MegatronPlan)
        steps, odd = divmod(consumed, plan.global_batch_size)
        if odd:
            raise StateError(
                f"{CONSUMED}={consumed} are {steps} steps and {odd} samples of a global batch of "
                f"{plan.global_batch_size}: give the dataset batch_size=global_batch_size / data-parallel size of the "
                "run that consumed them; after a ramp-up of the batch size, a count that this size divides"
            )
        if steps > plan.steps_per_epoch:
            raise StateError(
                f"{CONSUMED}={consumed} are more than the {plan.epoch_size} samples of this run: give the epoch_size "
                "of the run that consumed them (train_iters x global batch size)"
            )
        return run.document(plan.at_step(steps), None)


def _is_consumed(state: Any) -> bool:
    return isinstance(state, Mapping) and CONSUMED in state and "mixstream" not in state
