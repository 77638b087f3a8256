"""Per-sample gradients of a model's output function, by `torch.func.vmap(grad)`.

Rules. A gradient is that of one row's output f (`outputs.py`) to the chosen parameters, in evaluation mode, without a
key-value cache, flat and float32, in the order of the parameters' names as the model lists them. Tied parameters count
once. A chunk's rows are differentiated at once, so a chunk is as large as a memory target allows; `chunks` cuts rows
from the first on, so that equal rows are always computed together.

Rows are padded on the right. The model must be causal: a position must not see what comes after it. Then padding
changes no output, and needs no attention mask.

Shape suffixes: B rows of a chunk, T positions, P parameters, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from mixstream.errors import ConfigError
from mixstream.selection.datamodels.outputs import Output, row_output

Parameters = dict[str, Tensor]
Call = Callable[..., tuple[Tensor, Tensor]]
"""(parameters, *row) -> (output f, probability of what is correct), scalars."""

_COPIES = 2  # of a row's gradient while it is computed: what autograd adds up, and its result
_SAVED = 4  # values that a backward pass holds for each value that a module returned (measured on GPT-2: about 3)


def chosen_parameters(model: nn.Module, patterns: Sequence[str] = ()) -> Parameters:
    """Return the parameters to differentiate, detached, by name.

    Args:
        model: any torch model.
        patterns: shell patterns of names, as `*.mlp.*`; a parameter that matches any of them is chosen. Default: all
            that are trainable.

    Raises:
        ConfigError: a pattern matches no trainable parameter, or the model has none.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> {name: tuple(value.shape) for name, value in chosen_parameters(model, ["1.*"]).items()}
    {'1.weight': (1, 3), '1.bias': (1,)}
    """
    trainable = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    if not trainable:
        raise ConfigError("the model has no trainable parameter: set requires_grad on those to attribute to")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in trainable):
            raise ConfigError(
                f"no trainable parameter matches {pattern!r}; the model has {len(trainable)}, such as "
                f"{next(iter(trainable))}"
            )
    if not patterns:
        return trainable
    return {name: value for name, value in trainable.items() if any(fnmatchcase(name, each) for each in patterns)}


def count(parameters: Mapping[str, Tensor]) -> int:
    """Return P, the number of values in the parameters.

    >>> count({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    8
    """
    return sum(value.numel() for value in parameters.values())


def causal_call(model: nn.Module, *, output: Output = "log-odds") -> Call:
    """Return the output function of a causal language model, for `per_sample_gradients`.

    Args:
        model: takes tokens, int64 [B, T], and returns logits [B, T, V], or an object with `logits`, as those of
            transformers do. It is put into evaluation mode.
        output: "log-odds" or "loss".

    Returns:
        (parameters, tokens_T, counted_T) -> (f, mean probability of the correct token). `counted_T` is False for
        tokens that are not predicted: padding. The first token never is.
    """
    model.eval()
    options = _call_options(model)

    def call(parameters: Parameters, tokens_T: Tensor, counted_T: Tensor) -> tuple[Tensor, Tensor]:
        result = functional_call(model, parameters, (tokens_T.unsqueeze(0),), options)
        logits_TV = _logits(result).squeeze(0)
        return row_output(logits_TV[:-1], tokens_T[1:], counted_T[1:], output=output)

    return call


def per_sample_gradients(
    call: Call, parameters: Parameters, *rows: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of every row's output, float32 [B, P], and its probabilities, float32 [B].

    Args:
        call: (parameters, *row) -> (output, probability), scalars; `causal_call`, or any function that vmap accepts.
        parameters: what to differentiate by.
        rows: tensors [B, ...], whose first axis is the rows.
        out: float32 [B, P], where the gradients are written; None for a new tensor.

    >>> weight, x = {"w": torch.tensor([1.0, 2.0])}, torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    >>> call = lambda parameters, x: ((parameters["w"] ** 2 * x).sum(), x.new_ones(()))  # df/dw = 2 w x
    >>> per_sample_gradients(call, weight, x)[0]
    tensor([[ 6., 16.],
            [10., 24.]])
    """
    differentiate = vmap(grad(call, has_aux=True), in_dims=(None, *(0,) * len(rows)))
    with sdpa_kernel(SDPBackend.MATH):  # vmap loops over the rows of the fused kernels, and warns
        gradients, probability_B = differentiate(parameters, *rows)
    shape = len(rows[0]), count(parameters)
    flat_BP = torch.empty(shape, device=probability_B.device) if out is None else out
    begin = 0
    for name, value in parameters.items():
        flat_BP[:, begin : begin + value.numel()] = gradients.pop(name).detach().flatten(1)
        begin += value.numel()
    return flat_BP, probability_B.detach().float()


class Probe(NamedTuple):
    """What a forward pass of two tokens tells of a model.

    Attributes:
        vocabulary: number of logits per token, V.
        token_bytes: an estimate of the memory that each token of a row takes while the row is differentiated.
    """

    vocabulary: int
    token_bytes: int


def probe(model: nn.Module, device: torch.device | str = "cpu") -> Probe:
    """Run a causal model on two tokens, to learn its vocabulary and its need of memory.

    What the backward pass holds is estimated from the outputs of every innermost module. Attention matrices inside a
    module are not seen, so it is no bound.

    Raises:
        ConfigError: the model does not return logits [B, T, V].

    >>> probe(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)))  # 8 values a token, each held four times
    Probe(vocabulary=5, token_bytes=128)
    """
    seen = 0

    def add(_module: nn.Module, _inputs: object, result: object) -> None:
        nonlocal seen
        tensors = result if isinstance(result, tuple | list) else [result]
        seen += sum(each.numel() for each in tensors if isinstance(each, Tensor))

    hooks = [module.register_forward_hook(add) for module in model.modules() if not list(module.children())]
    model.eval()
    with torch.no_grad():
        result = model(torch.zeros(1, 2, dtype=torch.int64, device=device), **_call_options(model))
    for hook in hooks:
        hook.remove()
    return Probe(vocabulary=_logits(result).shape[-1], token_bytes=4 * _SAVED * seen // 2)


def bytes_of_gradient(parameters: Mapping[str, Tensor]) -> int:
    """Estimate the memory that one row's gradient takes while it is computed, in bytes."""
    return 4 * _COPIES * count(parameters)


def chunks(lengths_N: Sequence[int], *, of_token: int, of_row: int, memory: int) -> Iterator[slice]:
    """Cut rows into chunks that are differentiated at once: contiguous, in order, each within `memory` if it can be.

    A row of t tokens, padded to the longest of its chunk, takes `of_row + t * of_token` bytes. A row that alone
    takes more than `memory` is a chunk of its own.

    >>> [(cut.start, cut.stop) for cut in chunks([4, 4, 9, 2], of_token=1, of_row=1, memory=20)]
    [(0, 2), (2, 4)]
    """
    begin, longest = 0, 0
    for row, length in enumerate(lengths_N):
        longest = max(longest, int(length))
        if row > begin and (row + 1 - begin) * (of_row + longest * of_token) > memory:
            yield slice(begin, row)
            begin, longest = row, int(length)
    if len(lengths_N) > begin:
        yield slice(begin, len(lengths_N))


def padded(rows: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """Return arrays [t] side by side, [B, T], padded with 0 or False to the longest.

    >>> padded([np.array([5, 6, 7]), np.array([8, 9])], np.int64)
    array([[5, 6, 7],
           [8, 9, 0]])
    """
    made_BT = np.zeros((len(rows), max(map(len, rows), default=0)), dtype)
    for number, row in enumerate(rows):
        made_BT[number, : len(row)] = row
    return made_BT


def _call_options(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments of a forward pass: models of transformers must not build a key-value cache under vmap."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def _logits(result: Any) -> Tensor:
    logits = result if isinstance(result, Tensor) else getattr(result, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(result).__name__
        raise ConfigError(f"the model returned {shape} for tokens [1, T]: it must return logits [1, T, V]")
    return logits
