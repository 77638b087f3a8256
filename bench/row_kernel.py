"""The least that copying rows can cost: one compiled loop, one thread, without the GIL, every address known beforehand.

It looks nothing up and checks nothing, so it is no loader; `bench/loader.py` compares with it. Rows of the same dtype
are copied by `memcpy`, and uint16 becomes int64 in a vectorised loop.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def _memcpy(typing_context: Any, to: Any, source: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source, size = arguments
        pointers = (builder.inttoptr(each, cgutils.voidptr_t) for each in (to, source))
        cgutils.raw_memcpy(builder, *pointers, size, 1)
        return context.get_dummy_value()

    return types.none(types.uint64, types.uint64, types.int64), generate


@numba.njit(nogil=True)
def _copy_same(address_B: Any, out_address: Any, row_bytes: int) -> None:
    for i in range(len(address_B)):
        _memcpy(out_address + np.uint64(i * row_bytes), address_B[i], row_bytes)


@numba.njit(nogil=True)
def _copy_widened(address_B: Any, out: Any) -> None:
    for i in range(len(address_B)):
        values, target = numba.carray(_pointer(address_B[i]), (out.shape[1],), np.uint16), out[i]
        for n in range(len(target)):
            target[n] = values[n]


def copy_rows(address_B: np.ndarray, out: np.ndarray) -> None:
    """Copy rows of uint16 to `out`, [B, N], uint16 or int64.

    Args:
        address_B: uint64 [B], where each row lies in memory.
        out: written to.
    """
    if out.dtype == np.uint16:
        _copy_same(address_B, np.uint64(out.ctypes.data), out.shape[1] * 2)
    else:
        _copy_widened(address_B, out)
