"""The losses of a model on the validation rows of this rank, summed by domain."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from mixstream.arguments import has_items, shown
from mixstream.data.batch import Batch
from mixstream.errors import ConfigError
from mixstream.feedback.labelled import labelled
from mixstream.feedback.losses import domain_sums
from mixstream.types import Float64


class ValidationBatches(Iterable[Batch], Protocol):
    """Batches of validation rows, such as a `ValidationSet`."""

    @property
    def names(self) -> Sequence[str]:
        """The domains, in the order of `Batch.domain`."""
        ...


def evaluate(
    model_loss: Callable[[Batch], Any], validation: ValidationBatches, *, model: torch.nn.Module | None = None
) -> tuple[Float64, Float64]:
    """Return (sums_K, counts_K), float64 [K]: the summed losses on this rank's validation rows, and their numbers.

    Mean losses are the sums over all ranks divided by the counts over all ranks. A count of 0 means that the domain has
    no row on this rank, or no finite loss. The host waits for the device only at the end.

    Args:
        model_loss: returns the loss of a batch, without gradients: a tensor [B], [B, T] or [B * T]; or (loss, mask),
            as in `domain_sums`; or (loss, sums, counts), as from `domain_cross_entropy`.
        validation: the rows.
        model: switched to `eval()` for the evaluation; then each module returns to its mode before.

    Raises:
        ConfigError: `model_loss` returned something else.
    """
    if not callable(model_loss):
        raise ConfigError(f"`model_loss` is a function from a batch to its losses, got {shown(model_loss)}")
    if model is not None and not isinstance(model, torch.nn.Module):
        raise ConfigError(f"`model` is a torch.nn.Module, got {shown(model)}")
    if not has_items(getattr(validation, "names", None)):
        raise ConfigError(f"`validation` is a mixstream.ValidationSet, got {shown(validation)}; see Loader.validation")
    domains = len(validation.names)
    total: torch.Tensor | None = None
    with _evaluating(model), torch.no_grad():
        for batch in validation:
            both = torch.stack(_summed(model_loss(batch), batch, domains))
            total = both if total is None else total + both
    assert total is not None  # every rank has a batch
    sums_K, counts_K = total.cpu().numpy()
    return sums_K, counts_K


def _summed(result: Any, batch: Batch, domains: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sums, counts), float64 [K], from what `model_loss` returned."""
    match result:
        case torch.Tensor():
            loss, mask = labelled(batch, result, None)
            return domain_sums(loss, batch.domain, domains, mask=mask)
        case (torch.Tensor() as loss, mask):
            loss, mask = labelled(batch, loss, mask)
            return domain_sums(loss, batch.domain, domains, mask=mask)
        case (_, torch.Tensor() as sums, torch.Tensor() as counts) if sums.shape == counts.shape == (domains,):
            return sums.detach().double(), counts.detach().double()
    raise ConfigError(
        f"model_loss returned {_shape_of(result)}: return losses per row [B] or per token [B, T], or (loss, mask), or "
        f"(loss, sums, counts) with a sum and a count for each of the {domains} domains"
    )


def _shape_of(result: Any) -> str:
    if isinstance(result, tuple):
        return f"({', '.join(map(_shape_of, result))})"
    return f"a tensor {list(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__


@contextmanager
def _evaluating(model: torch.nn.Module | None) -> Iterator[None]:
    """Switch `model` to evaluation and then each module back, since some may be in evaluation mode already."""
    if model is None:
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
