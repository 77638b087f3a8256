"""Composer 0.32: `MixState`, a callback of its Trainer over `mixstream.Loader` or `StreamingDataLoader`.

    trainer = Trainer(model=model, train_dataloader=ms.Loader(dataset), callbacks=[MixState()], ...)

Rules. The position is the loader's. Composer saves it with the dataset of a torch DataLoader, which asks the
`StreamingDataLoader` that reads it; of a `mixstream.Loader` Composer knows nothing, so this callback saves it, loads it
before the first batch, and keeps Composer from reading batches to find its place. Losses of micro-batches are added up
and reported once a batch, also where Composer repeats a batch with smaller micro-batches.

Shape suffixes: B rows of a micro-batch, K domains.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from composer.core import Callback, State  # pyright: ignore[reportMissingImports]
from composer.loggers import Logger  # pyright: ignore[reportMissingImports]
from composer.utils import dist  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.mixers import Mixer

Losses = Callable[[Any, Any], Any]


class MixState(Callback):
    """Reports and logs losses by domain, logs weights, and keeps the position of a `mixstream.Loader`.

    Batches keep their column `domain`, which Composer cuts like any other.

    Args:
        losses: (outputs of the model, micro-batch) -> losses per row [B] or per token [B, T], or a pair of them and a
            mask. If not given, what the model's `loss` returns has to be losses per row or token; Composer takes their
            mean. A run whose mixer does not learn needs neither.
    """

    def __init__(self, *, losses: Losses | None = None) -> None:
        self._losses, self._saved = losses, None
        self._loader: Any = None
        self._batch: Any = None
        self._window = ms.losses.LossWindow([])  # the batch's micro-batches so far

    # --- position -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the position, where Composer does not save it itself."""
        return {"loader": self._loader.state_dict()} if isinstance(self._loader, ms.Loader) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the position for `fit_start`."""
        self._saved = state.get("loader")

    def fit_start(self, state: State, logger: Logger) -> None:
        """Take up the saved position, before Composer looks for its place.

        Raises:
            ConfigError: the train dataloader is no loader of mixstream, or the checkpoint has no position of it.
        """
        del logger
        loader = state.train_dataloader
        if not isinstance(loader, ms.Loader | ms.StreamingDataLoader):
            raise ConfigError(
                f"MixState has to report to the train dataloader, a {type(loader).__qualname__}: give "
                "mixstream.Loader(dataset) or mixstream.StreamingDataLoader(dataset, ...)"
            )
        again, self._loader = loader is self._loader, loader
        self._window = ms.losses.LossWindow(cast(Any, loader.dataset).domain_names)
        if not isinstance(loader, ms.Loader):
            return
        if self._saved is not None:
            loader.load_state_dict(self._saved)
        elif state.timestamp.batch.value and not again:
            raise ConfigError(
                f"the checkpoint of batch {state.timestamp.batch.value} has no position of this mixstream.Loader, so "
                "its batches would be read again: pass MixState() to the run that saves, or go on with "
                "mixstream.StreamingDataLoader, whose position Composer saves"
            )
        self._saved = None
        state.dataset_resumption["train"] = True  # else Composer takes batches off the loader

    # --- losses ---------------------------------------------------------------------------------------------------

    def batch_start(self, state: State, logger: Logger) -> None:
        """Note the batch, whose step the report names."""
        del logger
        self._batch = state.batch
        self._window.clear()

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """Count from 0, also where Composer trains a batch again."""
        del state, logger
        self._window.clear()

    def after_loss(self, state: State, logger: Logger) -> None:
        """Add up the losses of a micro-batch."""
        del logger
        domain_B = state.batch["domain"]
        found = state.loss if self._losses is None else self._losses(state.outputs, state.batch)
        loss, mask = found if isinstance(found, tuple) else (found, None)
        if self._losses is None and not (isinstance(loss, torch.Tensor) and loss.ndim and len(loss) == len(domain_B)):
            return  # a mean; `batch_end` says what a mixer that learns needs
        self._window.add(ms.domain_sums(loss, domain_B, len(self._window.names), mask=mask))

    def batch_end(self, state: State, logger: Logger) -> None:
        """Report the batch, and log losses over all ranks and weights by domain.

        Raises:
            ConfigError: the mixer learns, and the losses are not known by row.
        """
        del state
        loader, sums_2K = self._loader, self._window.sums_2K
        if sums_2K is None and isinstance(loader.dataset.run.mixer, Mixer):
            raise ConfigError(
                "the model's loss is one number for all domains, and the mixer learns from losses by domain: give "
                "MixState(losses=...), a function of (outputs, batch) that returns them per row or per token"
            )
        loader.report(self._batch, None if sums_2K is None else tuple(sums_2K))
        if sums_2K is not None:
            self._window.gather(lambda sums_2K: dist.all_reduce(sums_2K, reduce_operation="SUM"))
        logger.log_metrics(self._window.entry(weights=loader.weights))

    def close(self, state: State, logger: Logger) -> None:
        """End the loader's threads, before Composer ends the process group."""
        del state, logger
        if isinstance(self._loader, ms.Loader):
            self._loader.close()
