"""`MixData`: a LightningDataModule around `ms.Loader`, for the packages `lightning` and `pytorch_lightning`.

Rules. The loader has the position; this file has none. A batch that Lightning takes is a step of the loader, also under
`accumulate_grad_batches`. An epoch of Lightning is so many steps, and need not begin where an epoch of the data does:
what `limit_train_batches` leaves out of one comes in the next. What Lightning would lose or repeat is refused by name.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import mixstream as ms
from mixstream.integrations.lightning_arguments import check_position, check_trainer, is_accumulating, warn_of_gradients
from mixstream.loader import steps

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule as _DataModule
else:
    _faces = ("lightning.pytorch", "pytorch_lightning")  # one library under two names, each with classes of its own
    _used = [name for name in _faces if name in sys.modules] or [n for n in _faces if find_spec(n.partition(".")[0])]
    _DataModule = type("_DataModule", tuple(import_module(name).LightningDataModule for name in _used), {})


class MixData(_DataModule):
    """Training data for `Trainer.fit(model, datamodule=MixData(...))`, with exact resume and losses by domain.

    Its state is in every checkpoint, and `ckpt_path=` loads it, on any number of ranks.

    Args:
        dataset: the dataset, or a function from the number of ranks to it, called once the ranks have started.
        validation: loaders as Lightning takes them, or options of `Loader.validation`: {"split": "val", "rows": 64}.
        strict: False loads states as `Loader.load_state_dict(strict=False)` does, and begins the data at its start if a
            checkpoint has no state.
        options: of `ms.Loader`; `device` is the Trainer's if not given.

    Attributes:
        restored: whether a state was loaded since the Trainer began to fit.

    >>> def make(ranks):  # each reads its part of a global batch of 64 rows
    ...     return ms.StreamingDataset(remote="corpus/web", split="train", batch_size=64 // ranks, shuffle=True)
    >>> data = MixData(make, log="runs/first")  # `training_step` calls `self.trainer.datamodule.report(batch, loss)`
    """

    def __init__(
        self,
        dataset: ms.StreamingDataset | Callable[[int], ms.StreamingDataset],
        *,
        validation: Any = None,
        strict: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self._dataset, self.strict, self._options, self.restored = dataset, strict, options, False
        if validation is not None:  # Lightning looks whether there is such a method
            self.val_dataloader = partial(self._validation, validation)

    def _validation(self, given: Any) -> Any:
        return self.loader.validation(**given) if isinstance(given, Mapping) else given

    @cached_property
    def loader(self) -> ms.Loader:
        """The loader, for `weights`, `evaluate`, `describe`, …; made at the first use."""
        trainer, given = self.trainer, self._dataset
        ranks, device = (trainer.world_size, trainer.strategy.root_device) if trainer is not None else (1, None)
        dataset = given if isinstance(given, ms.StreamingDataset) else given(ranks)
        self._window = ms.losses.LossWindow(dataset.domain_names)
        return ms.Loader(dataset, **{"device": device, **self._options})

    def report(self, batch: Mapping[str, Any], loss: Any, *, mask: Any = None, matrix: Any = None) -> None:
        """Report the losses of `batch`, from `training_step`; the arguments are those of `Loader.report`.

        Every `log_every_n_steps`, the Trainer's loggers get `weight/NAME`, and `loss/NAME`: the mean over all ranks
        since the last entry, NaN if there was none.
        """
        trainer, known, loader, window = cast(Any, self.trainer), ms.Batch(batch), self.loader, self._window
        if loss is not None and not isinstance(loss, tuple) and known.domain is not None:
            loss, mask = ms.losses.labelled(known, loss, mask)
            loss, mask = ms.domain_sums(loss, known.domain, len(window.names), mask=mask), None
        loader.report(known, loss, mask=mask, matrix=matrix)
        if isinstance(loss, tuple):
            window.add(loss[-2:])
        done = trainer.fit_loop.epoch_loop._batches_that_stepped  # global_step counts manual steps of each optimizer
        if (every := trainer.log_every_n_steps) and not is_accumulating(trainer) and (done + 1) % every == 0:
            window.gather(partial(trainer.strategy.reduce, reduce_op="sum"), device=trainer.strategy.root_device)
            missing = dict.fromkeys((f"loss/{name}" for name in window.names), math.nan)  # else their last ones stay
            entry = window.entry(weights=loader.weights)
            trainer.lightning_module.log_dict(missing | entry, on_step=True, on_epoch=False)

    def setup(self, stage: str) -> None:
        """Check that ranks and batches of the Trainer are those of the dataset."""
        check_trainer(self.trainer, self.loader.dataset)
        self.restored = False

    def train_dataloader(self) -> Any:
        """Return the loader's steps, which have no end; `len` of them are an epoch of Lightning."""
        return _Steps(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's state, the same on every rank."""
        if self.trainer is not None:
            warn_of_gradients(self.trainer)
        return self.loader.state_dict() if "loader" in vars(self) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, at the next batch."""
        self.loader.load_state_dict(state_dict, strict=self.strict)
        self.restored = True

    def teardown(self, stage: str) -> None:
        """Close the loader, which can be used again."""
        self.loader.close()

    def on_exception(self, exception: BaseException) -> None:
        """Close the loader, without a second error."""
        if "loader" in vars(self):
            self.loader.__exit__(type(exception), exception, exception.__traceback__)


class _Steps:
    """The training steps of a `MixData`, saved and loaded with Lightning's own loops, too.

    Without an end, as after a short epoch Lightning neither steps the optimizer nor validates; with a length, as
    without one it takes a batch ahead."""

    def __init__(self, data: MixData) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data.loader)

    def __iter__(self) -> Iterator[Any]:
        data, trainer = self._data, cast(Any, self._data.trainer)
        if trainer.ckpt_path and not data.restored:
            check_position(trainer, data)
            data.load_state_dict(data.loader.state_dict())
        yield from steps(data.loader)
        trainer.should_stop = True  # too few domains are left

    def state_dict(self) -> dict[str, Any]:
        return self._data.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not self._data.restored:  # else this is the state that the data module has loaded
            self._data.load_state_dict(dict(state))
