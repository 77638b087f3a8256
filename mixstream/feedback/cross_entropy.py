"""Cross-entropy of a linear layer, chunk by chunk: the loss of every token without the logits of all.

Rules. Only the scalar loss can be differentiated, so the gradients are known up to one factor while the logits of a
chunk are in memory, and are computed then. Nothing is computed twice and no [N, V] tensor exists. Per-token losses are
returned beside it, without gradients. Gradients are kept without the factor until backward: in that range float16 does
not lose them.

Computing gradients in forward is the idea of Liger Kernel (Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM
Training", arXiv:2410.10989, section 3.2, FusedLinearCrossEntropy), which keeps the sum of losses instead of each.

Shape suffixes: N tokens, C tokens of a chunk, D width, V vocabulary.
"""

from contextlib import nullcontext
from typing import Any, Literal

import torch

from mixstream.arguments import MOST, choice, shown, whole
from mixstream.errors import ConfigError
from mixstream.records import dataclass

_CHUNK_LOGITS = 1 << 24
_CHUNK_LOGITS_GPU = 1 << 26  # 512 tokens of 131,072 classes: the weight's gradient is read and written once a chunk


def linear_cross_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum"] = "mean",
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (loss, loss_N): a scalar to differentiate, and every token's loss, detached and 0 where ignored.

    Both are float32, or float64 for float64 inputs. Arguments as in `mixstream.feedback.losses.domain_cross_entropy`.

    Raises:
        ConfigError: shapes or dtypes do not fit, or (on the CPU) a target is out of range.
    """
    ignore_index = whole("ignore_index", ignore_index, least=-MOST, most=MOST)
    _check(hidden_ND, weight_VD, targets_N, bias, ignore_index)
    choice("reduction", reduction, ("mean", "sum"))
    if chunk is not None:
        chunk = whole("chunk", chunk, most=MOST, of="tokens")
        if chunk < 1:
            raise ConfigError(f"chunk must be at least 1 token, got {shown(chunk)}")
    logits = _CHUNK_LOGITS if hidden_ND.device.type == "cpu" else _CHUNK_LOGITS_GPU
    chunk = chunk or max(logits // len(weight_VD), 1)
    chunks = max(-(-len(hidden_ND) // chunk), 1)
    how = _How(
        ignore_index=ignore_index,
        mean=reduction == "mean",
        chunk=max(-(-len(hidden_ND) // chunks), 1),  # chunks of one size, without a small one at the end
        compute=_compute_dtype(hidden_ND, weight_VD),
        differentiated=torch.is_grad_enabled(),
    )
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias, targets_N, how)


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """The arguments of the function that are not tensors."""

    ignore_index: int
    mean: bool
    chunk: int
    compute: torch.dtype
    differentiated: bool


class _LinearCrossEntropy(torch.autograd.Function):
    """(hidden, weight, bias, targets, …) -> (loss, loss_N)."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        how: _How,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = [how.differentiated and need for need in ctx.needs_input_grad[:3]]
        exact = torch.float64 if how.compute == torch.float64 else torch.float32
        counted_N = targets_N != how.ignore_index
        class_N = torch.where(counted_N, targets_N, 0).long()
        loss_N = hidden_ND.new_empty(len(hidden_ND), dtype=exact)
        grads = _Gradients(hidden_ND, weight_VD, wanted, exact)
        on = hidden_ND.device.type
        with torch.autocast(on, enabled=False) if _autocasts(on) else nullcontext():
            used_VD = weight_VD.to(how.compute)
            for first in range(0, len(hidden_ND), how.chunk):
                part = slice(first, first + how.chunk)
                used_CD = hidden_ND[part].to(how.compute)
                logits_CV = torch.mm(used_CD, used_VD.t()).to(exact)
                if bias_V is not None:
                    logits_CV += bias_V
                loss_N[part], scale_C1 = _exponentials(logits_CV, class_N[part, None], counted_N[part])
                if any(wanted):
                    logits_CV *= scale_C1  # now probabilities, 0 for tokens that do not count
                    logits_CV.scatter_add_(1, class_N[part, None], -counted_N[part, None].to(exact))
                    grads.add(part, logits_CV, used_CD, used_VD)
                del logits_CV  # before those of the next chunk are computed
        total = loss_N.sum(dtype=torch.float64)
        scale = 1 / counted_N.sum().clamp(min=1).double() if how.mean else torch.ones_like(total)
        ctx.save_for_backward(grads.hidden_ND, grads.weight_VD, grads.bias_V, scale)
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype
        ctx.mark_non_differentiable(loss_N)
        return (total * scale).to(exact), loss_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():  # else a penalty on the gradient would silently have no effect
            raise ConfigError(
                "this loss can be differentiated once, and create_graph=True asks for more: use "
                'F.cross_entropy(..., reduction="none") with domain_sums'
            )
        *grads, scale = ctx.saved_tensors
        factor = grad_outputs[0].double() * scale
        return *[_scaled(grad, factor, dtype) for grad, dtype in zip(grads, ctx.dtypes)], None, None


class _Gradients:
    """The wanted gradients of the summed loss, added up over chunks."""

    def __init__(
        self, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, wanted: list[bool], exact: torch.dtype
    ) -> None:
        self.hidden_ND = torch.empty_like(hidden_ND) if wanted[0] else None
        self.weight_VD = torch.zeros_like(weight_VD, dtype=exact) if wanted[1] else None
        self.bias_V = weight_VD.new_zeros(len(weight_VD), dtype=exact) if wanted[2] else None

    def add(self, part: slice, grad_CV: torch.Tensor, used_CD: torch.Tensor, used_VD: torch.Tensor) -> None:
        """Take in the tokens `part`: `grad_CV` is the gradient of their logits, the product of the other two."""
        if self.bias_V is not None:
            self.bias_V += grad_CV.sum(dim=0)
        grad_CV = grad_CV.to(used_VD.dtype)
        if self.hidden_ND is not None:
            self.hidden_ND[part] = torch.mm(grad_CV, used_VD)
        if self.weight_VD is None:
            return
        if self.weight_VD.dtype == grad_CV.dtype:
            self.weight_VD.addmm_(grad_CV.t(), used_CD)
        else:  # products in half precision, their sum in float32
            self.weight_VD += torch.mm(grad_CV.t(), used_CD)


def _exponentials(
    logits_CV: torch.Tensor, class_C1: torch.Tensor, counted_C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn logits into exponentials in place; return (loss_C, scale_C1): times `scale`, they are probabilities.

    In place, since the logits of a chunk are the largest tensor. Tokens that do not count get 0 for both.
    """
    peak_C1 = logits_CV.amax(dim=1, keepdim=True)
    chosen_C1 = logits_CV.gather(1, class_C1) - peak_C1
    total_C1 = logits_CV.sub_(peak_C1).exp_().sum(dim=1, keepdim=True)
    loss_C = (total_C1.log() - chosen_C1).squeeze(1)
    return torch.where(counted_C, loss_C, 0), torch.where(counted_C[:, None], 1 / total_C1, 0)


def _scaled(grad: torch.Tensor | None, factor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor | None:
    """Return `grad * factor` in `dtype`, multiplied in float32 at least; `grad` is kept for a second backward."""
    if grad is None:
        return None
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    # A factor with a dimension takes part in type promotion, so that it is not rounded to half precision.
    return torch.mul(grad, factor.to(wide).reshape(1), out=torch.empty_like(grad, dtype=dtype))


def _autocasts(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _compute_dtype(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.dtype:
    """Return the dtype to multiply in: that of autocast if it is on (not for float64), else that of both."""
    on = hidden_ND.device.type
    if _autocasts(on) and torch.float64 not in {hidden_ND.dtype, weight_VD.dtype}:
        return torch.get_autocast_dtype(on)
    if hidden_ND.dtype != weight_VD.dtype:
        raise ConfigError(
            f"hidden is {hidden_ND.dtype} and weight {weight_VD.dtype}: run the step under torch.autocast, or give "
            "both in one dtype"
        )
    return hidden_ND.dtype


def _check(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None,
    ignore_index: int,
) -> None:
    """Raise ConfigError for shapes or dtypes that do not fit, or (on the CPU) targets outside the vocabulary."""
    if weight_VD.ndim != 2 or hidden_ND.shape[1] != weight_VD.shape[1] or not len(weight_VD):
        raise ConfigError(
            f"weight has shape {tuple(weight_VD.shape)} for hidden of width {hidden_ND.shape[1]}: give the output "
            "projection as nn.Linear keeps it, [V, D]"
        )
    if bias_V is not None and bias_V.shape != weight_VD.shape[:1]:
        raise ConfigError(
            f"bias has shape {tuple(bias_V.shape)} for {len(weight_VD)} classes: give [V], or leave it out"
        )
    if targets_N.is_floating_point() or targets_N.dtype == torch.bool:
        raise ConfigError(f"targets have dtype {targets_N.dtype}: give class ids as whole numbers, such as int64")
    if targets_N.device.type != "cpu":
        return  # a check would wait for the device, which raises its own error
    wrong = ((targets_N < 0) | (targets_N >= len(weight_VD))) & (targets_N != ignore_index)
    if bool(wrong.any()):
        raise ConfigError(
            f"target {int(targets_N[wrong][0])} is no class of {len(weight_VD)}, counted from 0: give weight [V, D] of "
            f"the whole vocabulary, and ignore_index (now {ignore_index}) where there is nothing to predict"
        )
