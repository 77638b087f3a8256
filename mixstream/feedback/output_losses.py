"""Losses by domain of a language model's outputs, whatever head it has.

Rules. Nothing here is differentiated and nothing changes the trainer's loss. A forward hook sees the outputs, so that
no second forward pass is needed, and keeps none of them. Logits are read a part at a time, never copied whole.

Shape suffixes: B rows, T tokens, N terms, V vocabulary, K domains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

import torch
from torch.nn import functional

from mixstream.errors import ConfigError
from mixstream.feedback.losses import domain_cross_entropy, domain_sums
from mixstream.feedback.numbers import moved
from mixstream.records import dataclass

_CHUNK_LOGITS = 1 << 24
_HEAD_CHANGES = (
    *("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier"),
)
"""Settings of models whose logits are more than `hidden @ weight.T`."""


@dataclass(kw_only=True)
class OutputLosses:
    """The summed losses of a causal model's outputs, by domain.

    Args:
        domain: [B], as in `batch["domain"]`.
        domains: K.
        targets: [B, T], the "labels", or "shift_labels" if `shifted`; -100 where there is nothing to predict.
        shifted: whether `targets` are already those of the same position.
        model: the model below wrappers such as DDP.

    If a model returns no logits (a fused head such as Liger's), they are computed from its hidden states once more,
    without gradients and a chunk at a time.

    >>> model = torch.nn.Embedding(9, 9)  # tokens [B, T] -> logits [B, T, 9]
    >>> tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    >>> losses = OutputLosses(domain=[0, 1], domains=2, targets=tokens, model=model)
    >>> with losses.watching(model):
    ...     logits = model(tokens)
    >>> sums, counts = losses.sums()  # for `loader.report(batch, (sums, counts))`
    >>> counts.tolist()  # two tokens of each row are predicted
    [2.0, 2.0]
    """

    domain: Any
    domains: int
    targets: torch.Tensor
    shifted: bool = False
    model: Any
    _hidden: Any = field(default=None, init=False)
    _sums: torch.Tensor | None = field(default=None, init=False)
    _why: str = field(default="it was not called", init=False)

    @contextmanager
    def watching(self, wrapped: torch.nn.Module) -> Iterator[None]:
        """Take the losses of what `wrapped` returns in this context; it is the model, or a wrapper of it."""
        handles = [wrapped.register_forward_hook(self._see)]
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        compiled = hasattr(inner, "_orig_mod")  # a hook within would be compiled with it
        decoder = None if compiled else getattr(inner, "base_model", None)
        if isinstance(decoder, torch.nn.Module) and decoder is not inner:
            handles.append(decoder.register_forward_hook(self._see_hidden))
        try:
            yield
        finally:
            self._hidden = None
            for handle in handles:
                handle.remove()

    def sums(self) -> torch.Tensor:
        """Return sums and counts by domain, float64 [2, K].

        Raises:
            ConfigError: the outputs do not say the loss of each token.
        """
        if self._sums is None:
            raise ConfigError(
                f"{type(self.model).__name__} does not say the loss of each token ({self._why}), so that no losses by "
                "domain can be reported: use a model that returns logits for all positions, or report losses that you "
                "compute yourself (loader.report; with hf.MixTrainer, also give losses_by_domain=False)"
            )
        return self._sums

    def _see_hidden(self, module: Any, args: Any, output: Any) -> None:
        hidden = _item(output, "last_hidden_state")
        self._hidden = output[0] if hidden is None and isinstance(output, tuple) else hidden

    @torch.no_grad()
    def _see(self, module: Any, args: Any, output: Any) -> None:
        hidden, self._hidden = self._hidden, None
        if (log_probs := _item(output, "log_probs")) is not None:  # TRL's fused head
            mask = _item(output, "label_mask")
            targets = self._targets(log_probs) if mask is None else None
            self._count(-log_probs, mask if targets is None else targets != -100)
        elif (logits := _logits(output)) is not None:
            if logits.shape[:2] != self.targets.shape:
                self._why = f"logits have shape {tuple(logits.shape)} for labels of {tuple(self.targets.shape)}"
                return
            targets = self._targets(logits)
            self._count(_cross_entropy(logits if self.shifted else logits[:, :-1], targets), targets != -100)
        elif hidden is not None and hidden.shape[:2] == self.targets.shape:
            self._count_hidden(hidden)
        else:
            self._why = "its outputs have neither logits nor log_probs"

    def _targets(self, beside: torch.Tensor) -> torch.Tensor:
        targets = moved(self.targets, beside.device)
        return targets if self.shifted else targets[:, 1:]

    def _count(self, loss_BT: torch.Tensor, mask_BT: torch.Tensor | None) -> None:
        self._sums = torch.stack(domain_sums(loss_BT, self.domain, self.domains, mask=mask_BT))

    def _count_hidden(self, hidden_BTD: torch.Tensor) -> None:
        head, config = self.model.get_output_embeddings(), getattr(self.model, "config", None)
        changed = [name for name in _HEAD_CHANGES if getattr(config, name, None) not in {None, 1.0}]
        if head is None or changed:
            self._why = f"it returns no logits, and its head changes them by {changed}" if changed else "it has no head"
            return
        weight_VD = head.weight.full_tensor() if hasattr(head.weight, "full_tensor") else head.weight
        _, *sums = domain_cross_entropy(
            hidden_BTD if self.shifted else hidden_BTD[:, :-1],
            weight_VD.to(hidden_BTD.dtype),
            self._targets(hidden_BTD),
            self.domain,
            domains=self.domains,
            bias=getattr(head, "bias", None),
        )
        self._sums = torch.stack(sums)


def _item(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _logits(output: Any) -> torch.Tensor | None:
    """Return the logits, [B, T, V], of a model's outputs; None if there are none."""
    found = output if isinstance(output, tuple) else (output, _item(output, "logits"))
    return next((item for item in found if isinstance(item, torch.Tensor) and item.ndim == 3), None)


def _cross_entropy(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Return the loss of each token, float32 [B, T]; 0 where there is nothing to predict."""
    size = max(_CHUNK_LOGITS // logits_BTV.shape[-1], 1)
    return torch.stack(
        [
            torch.cat(
                [
                    functional.cross_entropy(part_NV.float(), part_N, reduction="none")
                    for part_NV, part_N in zip(logits_TV.split(size), targets_T.split(size))
                ]
            )
            for logits_TV, targets_T in zip(logits_BTV, targets_BT)
        ]
    )
