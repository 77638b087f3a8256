"""One contender in a process of its own, which delivers batches when the driver says so.

    python bench/peers/serve.py ADAPTER CORPUS SETTINGS             (convert: python … ADAPTER CORPUS convert)

SETTINGS is JSON: `batch_size`, `dtype`, and what the adapter takes. Each answer is a line of JSON on the standard
output; what the peer itself prints goes to the standard error. The first line says how long the first batch took, from
the first import of the peer on (torch and numpy are there), and which versions run. Then each line of the input is a
request: `go SECONDS` delivers batches for as long and answers their number and the seconds, a byte of each page being
read, as a copy to a device would; `check BATCHES FILE` delivers batches and writes the sums of their rows (.npy).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_corpus import SEQ, corpus_at, row_sums

PAGE = 4096


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    name, directory, given = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    corpus, data = corpus_at(directory), directory / name
    adapter = importlib.import_module(f"adapters.{name}")
    if given == "convert":
        began = time.perf_counter()
        adapter.convert(corpus, data)
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answers)
        return
    settings: dict[str, Any] = json.loads(given)
    began = time.perf_counter()
    batches = adapter.batches(corpus, data, **settings)
    batch = next(batches)
    first = time.perf_counter() - began
    versions = {package: importlib.metadata.version(package) for package in ("torch", "numpy", *adapter.PACKAGES)}
    print(json.dumps({"first": first, "versions": versions}), file=answers)
    shape, dtype = (settings["batch_size"], SEQ), getattr(torch, settings["dtype"])
    for line in sys.stdin:
        request, *rest = line.split()
        if request == "go":
            seconds, count, began = float(rest[0]), 0, time.perf_counter()
            while (wall := time.perf_counter() - began) < seconds:
                batch = next(batches)
                batch.numpy().reshape(-1).view(np.uint8)[::PAGE].max()
                count += 1
            print(json.dumps({"batches": count, "wall": wall}), file=answers)
        elif request == "check":
            sums = []
            for _ in range(int(rest[0])):
                if tuple(batch.shape) != shape or batch.dtype != dtype or not batch.is_contiguous():
                    raise SystemExit(f"{name}: a batch of {batch.dtype} {tuple(batch.shape)}, not {dtype} {shape}")
                sums.append(row_sums(batch.numpy()))
                batch = next(batches)
            np.save(rest[1], np.concatenate(sums))
            print(json.dumps({"batches": len(sums)}), file=answers)
    del batches


if __name__ == "__main__":
    main()
