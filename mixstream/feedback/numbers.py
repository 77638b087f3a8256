"""Numbers that a trainer reports, as tensors: taken in any usual form, or refused by name before they count.

Rule: nothing here waits for a device, but `moved` for what the host reads; so only the form is checked, not the values.
NaN stands for a number that is missing; a masked entry of a numpy array is one.
"""

import reprlib
from typing import Any

import numpy as np
import torch

from mixstream.errors import ConfigError, MixstreamError


def as_numbers(
    value: Any, *, what: str, form: str, error: type[MixstreamError] = ConfigError, traced: bool = False
) -> torch.Tensor:
    """Return real numbers as a tensor on the device where they are, without gradients.

    >>> as_numbers([[1, 2.5], torch.tensor([3.0, 4.0], requires_grad=True)], what="a matrix", form="").tolist()
    [[1.0, 2.5], [3.0, 4.0]]
    >>> as_numbers(["1", None], what="a matrix", form="give numbers")
    Traceback (most recent call last):
    mixstream.errors.ConfigError: a matrix was reported as ['1', None] (object is no real number): give numbers

    Args:
        value: a tensor, a numpy array, or a list of numbers, tensors or lists.
        what: names it in the error.
        form: says in the error what to give.
        error: the kind of error.
        traced: take tensors on the device meta too, where a step is traced without data.
    """
    try:
        return _tensor(value, traced=traced)
    except (TypeError, ValueError, OverflowError, RuntimeError) as why:
        raise error(f"{what} was reported as {reprlib.repr(value)} ({why}): {form}") from why


def moved(values: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return `values` on `device`. The host waits only for values that it needs itself.

    A copy from a GPU that nobody waits for (`non_blocking`) returns memory of the host that is not filled yet.
    """
    return values.to(device, dtype or values.dtype, non_blocking=device.type != "cpu")


def _tensor(value: Any, *, traced: bool = False) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        if value.is_complex():
            raise TypeError("complex")
        if value.device.type == "meta" and not traced:
            raise TypeError("a tensor on the device meta holds no numbers")
        return value.detach() if value.layout is torch.strided else value.detach().to_dense()
    if isinstance(value, list | tuple) and any(isinstance(part, torch.Tensor | list | tuple) for part in value):
        return torch.stack([_tensor(part).double() for part in value])
    if hasattr(value, "__cuda_array_interface__"):
        return torch.as_tensor(value)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{array.dtype} is no real number")
    if isinstance(value, np.ma.MaskedArray):
        array = np.where(np.ma.getmaskarray(value), np.nan, array)
    return torch.from_numpy(np.array(array, dtype=np.float64 if array.dtype.kind == "f" else None))
