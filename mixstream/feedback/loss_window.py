"""Losses by domain between two entries of a trainer's own log. The host does not wait for the device until an entry.

Shape suffixes: K domains in the order of `streams`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mixstream.argument_kinds import checked


class LossWindow:
    """Sums of losses by domain, of this rank and then of all ranks, since the last entry of a log.

    Args:
        names: the domains, in the order of `streams`.

    Attributes:
        sums_2K: float64 [2, K], this rank's summed losses and their counts that no other rank knows yet; None if there
            are none.

    >>> window = LossWindow(["web", "code", "law"])
    >>> for sums, counts in (([6.0, 0.0, 1.0], [2, 0, 1]), ([2.0, 0.0, 4.0], [2, 0, 1])):  # of two micro-batches
    ...     window.add((torch.tensor(sums), torch.tensor(counts)))
    >>> window.entry(weights={"web": 0.5, "code": 0.2, "law": 0.3})
    {'loss/web': 2.0, 'loss/law': 2.5, 'weight/web': 0.5, 'weight/code': 0.2, 'weight/law': 0.3}
    """

    @checked
    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.clear()

    @property
    def gathered(self) -> bool:
        """Whether losses of all ranks wait for an entry."""
        return self._gathered_2K is not None

    def clear(self) -> None:
        """Forget all losses: they were of a step that is trained on again, or of another run."""
        self.sums_2K: torch.Tensor | None = None
        self._gathered_2K: torch.Tensor | None = None

    def add(self, sums: Any) -> None:
        """Add (sums, counts), [K] each, as from `domain_sums`; or a tensor [2, K]. What is given is copied."""
        added_2K = torch.stack([torch.as_tensor(part).detach().double() for part in sums])
        self.sums_2K = added_2K if self.sums_2K is None else self.sums_2K + added_2K

    def gather(self, reduce: Callable[[torch.Tensor], Any], *, device: Any = None) -> None:
        """Add up the losses of all ranks. Every rank calls this at the same step, whatever losses it has.

        Args:
            reduce: replaces a float64 [2, K] of this rank by the sum over all ranks, or returns that sum.
            device: the device of what is reduced; that of the losses if not given.
        """
        empty = torch.zeros(2, len(self.names), dtype=torch.float64)
        local_2K = (empty if self.sums_2K is None else self.sums_2K).clone()  # the reported ones may still be copied
        local_2K = local_2K if device is None else local_2K.to(device)
        reduced_2K = reduce(local_2K)
        found_2K = reduced_2K if isinstance(reduced_2K, torch.Tensor) else local_2K
        self.sums_2K = None
        self._gathered_2K = found_2K if self._gathered_2K is None else self._gathered_2K + found_2K

    def entry(self, *, weights: Mapping[str, float] | None = None, prefix: str = "loss/") -> dict[str, float]:
        """Return an entry for a log, and begin anew: mean losses as `prefix` + name, and weights as `weight/` + name.

        The losses are those that were gathered, or this rank's if none were. Domains without losses are left out.
        """
        found_2K = self.sums_2K if self._gathered_2K is None else self._gathered_2K
        self.clear()
        sums_2K = [[], []] if found_2K is None else found_2K.tolist()
        means = {f"{prefix}{name}": loss / count for name, loss, count in zip(self.names, *sums_2K) if count}
        return means | {f"weight/{name}": weight for name, weight in (weights or {}).items()}
