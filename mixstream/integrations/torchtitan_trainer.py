"""torchtitan's `Trainer` with losses by domain: reported to the mixer, and in torchtitan's own metrics.

    config = mixed(llama3_debugmodel(), MixDataLoader.Config(dataset_path="corpus", mixer=ms.mixers.ADO()))

Rules. Every row of a micro-batch has one domain; its number rides beside the input and never reaches the model. Losses
are added up on the device, in place, since a CUDA graph replays no Python, and reported once per optimiser step. Ranks
of one TP group hold the same losses; those of a CP group hold parts, which are added up.

Shape suffixes: B rows, T tokens of an input, K domains.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torchtitan.components.loss import (  # pyright: ignore[reportMissingImports]
    IGNORE_INDEX,
    BaseLoss,
    ChunkedLossWrapper,
    CrossEntropyLoss,
    compute_logprobs,
)
from torchtitan.trainer import Trainer  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.integrations.torchtitan import MixDataLoader


class DomainLoss(BaseLoss):
    """Cross-entropy over all valid tokens, which also adds up losses and tokens by domain.

    Attributes:
        domain_B: the domains of the micro-batch in hand; None where losses are not counted, as in validation.
        totals: float64 [2, K], this rank's summed losses and counted tokens of the step so far; None before `begin`.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        """No options."""

    def __init__(self, config: Config, *, compile_config: Any = None) -> None:
        del config
        self.fn, self.domain_B = compute_logprobs, None
        self.totals: torch.Tensor | None = None
        self._maybe_compile(compile_config)

    def __call__(
        self, pred: torch.Tensor, labels: torch.Tensor, global_valid_tokens: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss, summed over the tokens of `labels` [B, T] and divided by `global_valid_tokens`."""
        del kwargs
        loss_BT = -self.fn(pred, labels)
        if self.domain_B is not None and self.totals is not None:
            found = ms.domain_sums(loss_BT, self.domain_B, self.totals.shape[1], mask=labels != IGNORE_INDEX)
            self.totals += torch.stack(found)
        loss = loss_BT.sum()
        return (loss if global_valid_tokens is None else loss / global_valid_tokens), {}


class MixTrainer(Trainer):
    """torchtitan's Trainer over a `MixDataLoader`, with `DomainLoss` as its loss or as that of its chunks.

    Raises:
        ConfigError: it has another dataloader or loss, pipeline parallelism (whose stages do not all know the losses),
            or the full_dtensor backend.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        """As of torchtitan's Trainer."""

    def __init__(self, config: Config) -> None:
        if not isinstance(config.dataloader, MixDataLoader.Config):
            raise ConfigError(f"dataloader is a {type(config.dataloader).__qualname__}: give a MixDataLoader.Config")
        if config.parallelism.pipeline_parallel_degree > 1 or config.parallelism.spmd_backend == "full_dtensor":
            raise ConfigError(
                "losses by domain are not measured with pipeline parallelism or spmd_backend='full_dtensor': use "
                "torchtitan's Trainer with MixDataLoader, and a mixer that does not learn"
            )
        rows = config.training.global_batch_size
        if config.dataloader.global_batch_size not in (-1, rows):
            raise ConfigError(
                f"dataloader.global_batch_size={config.dataloader.global_batch_size} and "
                f"training.global_batch_size={rows}: leave the dataloader's out, which copies the training's"
            )
        config = replace(config, dataloader=replace(config.dataloader, global_batch_size=rows))
        super().__init__(config)
        loss = self.loss_fn.loss_fn if isinstance(self.loss_fn, ChunkedLossWrapper) else self.loss_fn
        if not isinstance(loss, DomainLoss):
            raise ConfigError(f"loss is a {type(loss).__qualname__}: give DomainLoss.Config(), as `mixed` does")
        self._domain_loss, self.dataloader.with_domains = loss, True
        names = self.dataloader.loader.dataset.domain_names
        self._window = ms.losses.LossWindow(names)
        loss.totals = torch.zeros(2, len(names), dtype=torch.float64, device=self.device)

    def post_dataloading_process(self, input_dict: dict[str, Any], labels: torch.Tensor) -> Any:
        """As of the Trainer; domain ids go on beside the model's keyword arguments."""
        domain_B = input_dict.pop("domain_ids")
        inputs, labels, extra = super().post_dataloading_process(input_dict, labels)
        return inputs, labels, {**extra, "domain_ids": domain_B}

    def _forward_backward_body(
        self, inputs: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor, extra_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        extra = dict(extra_kwargs)
        self._domain_loss.domain_B = extra.pop("domain_ids")
        try:
            return super()._forward_backward_body(inputs, labels, valid, extra)
        finally:
            self._domain_loss.domain_B = None

    def train_step(self, data_iterator: Iterator[Any]) -> None:
        """Train on one step of the loader and report its losses; log their means since torchtitan's last log."""
        super().train_step(data_iterator)
        counted = self._domain_loss.totals
        assert counted is not None
        totals = counted.clone()
        counted.zero_()
        if self.parallel_dims.cp_enabled:
            dist.all_reduce(totals, group=self.parallel_dims.get_mesh("cp").get_group())
        loader = self.dataloader.loader
        loader.report(self.dataloader.batch, (totals[0], totals[1]))
        self._window.add(totals)
        if self.metrics_processor.should_log(self.step):
            if self.parallel_dims.dp_enabled:
                group = self.parallel_dims.get_mesh("batch").get_group()
                self._window.gather(lambda sums_2K: dist.all_reduce(sums_2K, group=group))
            self.metrics_processor.logger.log(self._window.entry(weights=loader.weights), self.step)

    def close(self) -> None:
        """As of the Trainer, after the last report."""
        self.dataloader.close()
        super().close()


def mixed(config: Trainer.Config, dataloader: MixDataLoader.Config) -> MixTrainer.Config:
    """Return torchtitan's `config` with rows of `dataloader`, and its cross-entropy taken by domain."""
    loss = config.loss
    if isinstance(loss, ChunkedLossWrapper.Config) and isinstance(loss.loss_fn, CrossEntropyLoss.Config):
        loss = replace(loss, loss_fn=DomainLoss.Config())
    elif isinstance(loss, CrossEntropyLoss.Config):
        loss = DomainLoss.Config()
    given = {each.name: getattr(config, each.name) for each in fields(config)}
    return MixTrainer.Config(**{**given, "loss": loss, "dataloader": dataloader})
