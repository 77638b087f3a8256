"""What copying rows costs by how many buffers take turns: ordinary stores against stores past the processor's caches.

    python bench/row_buffers.py [--rows 40000] [--rounds 5]

A loader makes batches ahead, so it writes to several buffers in turn. The kernel of `bench/loader.py` writes to one,
which stays in a cache if it is small. Here that kernel and the loop of `mixstream.data.gather_loops` copy the same
random rows of the same files, on one thread, with all addresses known; million tokens per CPU second, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from loader import SEQ, Sources, corpus, make_dataset
from row_kernel import copy_rows

from mixstream.data.gather_loops import stream_bytes, stream_rows
from mixstream.plan.compiled import compile_at_once

ROWS = 8192


def streamed(address_B: np.ndarray, out: np.ndarray) -> None:
    """Copy rows of uint16 to `out`, [B, N], uint16 or int64, past the caches."""
    target_B = np.uint64(out.ctypes.data) + np.arange(len(out), dtype=np.uint64) * np.uint64(out.strides[0])
    if out.dtype == np.uint16:
        stream_bytes(address_B, target_B, out.shape[1] * 2, np.empty(0, dtype=np.int64))
    else:
        stream_rows(address_B, target_B, out.shape[1], np.empty(0, dtype=np.uint16))


def rate(copy: Callable[[np.ndarray, np.ndarray], None], batches: list[np.ndarray], buffers: np.ndarray) -> float:
    """Return million tokens per CPU second of copying `batches` to `buffers` in turn."""
    began = time.process_time()
    for i, address_B in enumerate(batches):
        copy(address_B, buffers[i % len(buffers)])
    return len(batches) * buffers[0].size / (time.process_time() - began) / 1e6


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=40_000, help="rows per domain")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    compile_at_once()
    paths = corpus(options.rows)
    print("rows a batch  delivers  buffers     MiB  ordinary stores  past the caches")
    for batch_size in (64, 256, 1024):
        sources = Sources(make_dataset(paths, batch_size), ROWS // batch_size)  # holds the mappings
        batches = sources.address
        for dtype in (np.uint16, np.int64):
            for count in (1, 4, 16):
                buffers = np.zeros((count, batch_size, SEQ), dtype=dtype)
                pairs = [
                    (rate(copy_rows, batches, buffers), rate(streamed, batches, buffers))
                    for _ in range(options.rounds + 1)
                ]
                plain, past = (statistics.median(column[1:]) for column in zip(*pairs))
                name, size = np.dtype(dtype).name, buffers.nbytes >> 20
                print(f"{batch_size:>12}  {name:>8}  {count:>7}  {size:>6}  {plain:>15,.0f}  {past:>15,.0f}")


if __name__ == "__main__":
    main()
