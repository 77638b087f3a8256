"""What a GPU gets from a `Loader`, and what losses by domain cost there. One run of at most four minutes, no arguments.

    PYTHONPATH=. python bench/gpu.py          # without a CUDA device it prints "skipped: no CUDA device", status 0

(a) batches on the device against those on the CPU, value by value, while kernels keep the device busy and buffers are
used again; (b) tokens/s into the GPU: uint16 over the bus, widened there (the default), uint16 as stored, and int64
over the bus (a transform on the host), against copies of as many bytes from page-locked memory and nothing else, in
turns; (c) time of a synthetic training step with a loader over that with one batch again and again, and the share of it
spent in `next`; (d) `domain_cross_entropy` against F.cross_entropy, with and without sums by domain, a chunked fused
linear cross-entropy in the manner of Liger (and Liger's own kernel and a compiled loss, where they work): time, peak
memory, and the distance of loss and gradients to float64; (e) `report` under `set_sync_debug_mode("error")`.

Results are printed and written as JSON to $OUT (or runs/). The status is 1 if (a), the tolerances of (d) or (e) fail.
`--rehearse` runs every part on the CPU with tiny sizes, to check the script; its times mean nothing.

A machine without a network needs torch, numpy, numba, xxhash, rich, and the wheels of msgspec and zstandard for its
Python (liger_kernel too, if wanted); what is missing is named. For Python 3.12 on x86-64, before:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 -d .whl msgspec zstandard liger-kernel

and there, in the repository's root, with a limit of 400 seconds:

    python3 -m pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl
    PYTHONPATH=/tmp/site:. PYTHONUNBUFFERED=1 python3 bench/gpu.py
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

NEEDED = ("torch", "numpy", "numba", "xxhash", "rich", "msgspec", "zstandard")
if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    print(f"skipped: {', '.join(missing)} not installed here")
    sys.exit(0)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812

import mixstream as ms  # noqa: E402

SECONDS = 230.0
"""After which no further measurement begins."""


class Bench:
    """Sizes, the device, and what was found."""

    def __init__(self, *, rehearse: bool) -> None:
        self.device, self.tiny = torch.device("cpu" if rehearse else "cuda"), rehearse
        self.began, self.found, self.failed = time.perf_counter(), {}, []
        self.domains, self.rows, self.tokens = 8, 40 if rehearse else 1500, 64 if rehearse else 2048

    def part(self, name: str, run: Callable[[], Any]) -> None:
        """Run a part; a part that fails is a result, and the others follow."""
        seconds = time.perf_counter() - self.began
        if seconds > SECONDS:
            self.found[name] = f"skipped after {seconds:.0f} s"
            return
        try:
            self.found[name] = run()
        except Exception as error:
            self.failed.append(name)
            self.found[name] = f"{type(error).__name__}: {error}"
        print(
            f"[{time.perf_counter() - self.began:.0f} s] {name}: {json.dumps(self.found[name], indent=1)}", flush=True
        )

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any]) -> float:
        """Return the wall-clock seconds of `run`, with the device idle before and after."""
        self.sync()
        began = time.perf_counter()
        run()
        self.sync()
        return time.perf_counter() - began

    def write(self, root: Path) -> None:
        """Write the domains: MDS, uint16."""
        rng = np.random.default_rng(0)
        for k in range(self.domains):
            column = {"tokens": f"ndarray:uint16:{self.tokens}"}
            with ms.MDSWriter(columns=column, out=str(root / str(k))) as writer:
                for row in rng.integers(0, 1 << 16, (self.rows, self.tokens), dtype=np.uint16):
                    writer.write({"tokens": row})

    def loader(self, root: Path, batch: int, **options: Any) -> ms.Loader:
        """Return a loader over the domains."""
        streams = [ms.Stream(local=str(root / str(k)), name=f"domain {k}") for k in range(self.domains)]
        return ms.Loader(ms.StreamingDataset(streams=streams, batch_size=batch, shuffle=True), **options)


def endless(loader: ms.Loader) -> Iterator[Any]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


def take(batches: Iterator[Any], number: int) -> None:
    """Take batches and drop them."""
    for _ in range(number):
        next(batches)


def same(batch: ms.Batch) -> ms.Batch:
    """Return the batch: a transform, which sees int64 on the host."""
    return batch


WAYS: dict[str, dict[str, Any]] = {
    "uint16 over the bus, int64 there": {},
    "uint16 over the bus, as stored": {"widen": False},
    "int64 over the bus": {"transforms": [same]},
}


def equality(bench: Bench, root: Path) -> dict[str, Any]:
    """Compare batches on the device with those on the CPU."""
    found, busy = {}, torch.randn(256 if bench.tiny else 4096, 256 if bench.tiny else 4096, device=bench.device)
    ways = {**WAYS, "made in next": {"prefetch": 0}}
    for name, options in ways.items():
        with bench.loader(root, 16, **options) as host, bench.loader(root, 16, device=bench.device, **options) as there:
            wrong = torch.zeros((), dtype=torch.int64, device=bench.device)
            for expected, batch in itertools.islice(zip(endless(host), endless(there)), 20 if bench.tiny else 300):
                busy = busy @ busy
                busy /= busy.norm()
                for column in expected:
                    if batch[column].dtype != expected[column].dtype:
                        raise AssertionError(f"{name}: {column} is {batch[column].dtype}")
                    kept = batch[column].clone()  # behind the product, when the batch is deleted
                    wrong += (kept.long() != expected[column].to(bench.device).long()).sum()
                del batch
            found[name] = int(wrong)
    if any(found.values()):
        raise AssertionError(f"values that differ: {found}")
    return {"values that differ": found}


def feed(bench: Bench, root: Path) -> dict[str, Any]:
    """Measure tokens/s into the device, and the limit of the bus."""
    found: dict[str, Any] = {}
    for rows in (8, 16) if bench.tiny else (64, 512):
        steps = 4 if bench.tiny else max(25_600 // rows, 40)
        tokens = rows * bench.tokens
        rates: dict[str, list[float]] = {}
        for _ in range(3):
            for name, options in {**WAYS, "uint16 to the CPU": {"widen": False}}.items():
                device = torch.device("cpu") if "CPU" in name else bench.device
                with bench.loader(root, rows, device=device, **options) as loader:
                    batches = endless(loader)
                    take(batches, 8)
                    taken = bench.seconds(partial(take, batches, steps))
                rates.setdefault(name, []).append(steps * tokens / taken / 1e6)
            for name, size in (("bare copies, uint16", 2), ("bare copies, int64", 8)):
                pinned = bench.device.type == "cuda"
                sources = [torch.ones(tokens * size, dtype=torch.uint8, pin_memory=pinned) for _ in range(3)]
                targets = [torch.empty_like(source, device=bench.device) for source in sources]

                def copies(sources: Any = sources, targets: Any = targets, steps: int = steps) -> None:
                    for at in range(steps):
                        targets[at % 3].copy_(sources[at % 3], non_blocking=True)

                copies()
                rates.setdefault(name, []).append(steps * tokens / bench.seconds(copies) / 1e6)
        million = {name: round(statistics.median(each)) for name, each in rates.items()}
        limit = {name: million["bare copies, uint16" if "uint16" in name else "bare copies, int64"] for name in WAYS}
        found[f"{rows} rows"] = {
            "million tokens/s, median of 3": million,
            "lowest, highest": {name: [round(min(each)), round(max(each))] for name, each in rates.items()},
            "share of the bus": {name: round(million[name] / limit[name], 3) for name in WAYS},
            "GB/s of bare copies": round(million["bare copies, int64"] * 8e-3, 1),
        }
    return found


def overlap(bench: Bench, root: Path) -> dict[str, Any]:
    """Measure a synthetic step with a loader and without."""
    found: dict[str, Any] = {}
    width, rows = (64, 8) if bench.tiny else (4096, 64)
    dtype = torch.float32 if bench.tiny else torch.bfloat16
    table = torch.randn(1 << 16, 64, device=bench.device, dtype=dtype)
    weight = torch.randn(width, width, device=bench.device, dtype=dtype) / width**0.5
    hidden = torch.randn(width, width, device=bench.device, dtype=dtype)

    def step(tokens: torch.Tensor, products: int) -> None:
        state = hidden + table[tokens[:, :64]].mean()  # reads the batch first, as an embedding does
        for _ in range(products):
            state = state @ weight

    fixed = torch.zeros(rows, bench.tokens, dtype=torch.int64, device=bench.device)
    step(fixed, 10)
    product = (bench.seconds(lambda: step(fixed, 60)) - bench.seconds(lambda: step(fixed, 10))) / 50
    for wanted in (0.002, 0.008, 0.03):
        products, steps = max(round(wanted / max(product, 1e-6)), 1), 3 if bench.tiny else 60
        products = min(products, 3) if bench.tiny else products
        ratios, shares = [], []
        with bench.loader(root, rows, device=bench.device) as loader:
            batches, waited = endless(loader), [0.0]

            def trained(waited: Any = waited, batches: Any = batches, n: int = products, steps: int = steps) -> None:
                for _ in range(steps):
                    asked = time.perf_counter()
                    batch = next(batches)
                    waited[0] += time.perf_counter() - asked
                    step(batch["tokens"], n)
                    bench.sync()  # as a trainer that logs each loss

            def alone(n: int = products, steps: int = steps) -> None:
                for _ in range(steps):
                    step(fixed, n)
                    bench.sync()

            trained()
            for _ in range(3):
                without, waited[0] = bench.seconds(alone), 0.0
                taken = bench.seconds(trained)
                ratios.append(round(taken / without, 3))
                shares.append(round(waited[0] / taken, 4))
        found[f"{1e3 * wanted:.0f} ms wanted"] = {
            "ms": round(1e3 * without / steps, 2),
            "with loader / without": ratios,
            "share in next": shares,
        }
    return found


class _Chunked(torch.autograd.Function):
    """Linear cross-entropy in the manner of Liger: gradients of a chunk in forward, one scalar loss."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Any, weight_VD: Any, targets_N: Any) -> torch.Tensor:
        tokens, (classes, width) = len(hidden_ND), weight_VD.shape
        parts = max(-(-classes // width), 1)
        chunk = 1 << max((-(-tokens // parts) - 1).bit_length(), 0)  # Liger's choice
        grad_ND, grad_VD = torch.empty_like(hidden_ND), torch.zeros_like(weight_VD, dtype=torch.float32)
        total = torch.zeros((), device=hidden_ND.device, dtype=torch.float32)
        for first in range(0, tokens, chunk):
            part = slice(first, first + chunk)
            logits_CV = (hidden_ND[part] @ weight_VD.t()).float()
            total += F.cross_entropy(logits_CV, targets_N[part], reduction="sum")
            logits_CV = logits_CV.softmax(dim=1)
            logits_CV.scatter_add_(1, targets_N[part, None], torch.full_like(logits_CV[:, :1], -1.0))
            grad_CV = (logits_CV / tokens).to(hidden_ND.dtype)
            grad_ND[part] = grad_CV @ weight_VD
            grad_VD += grad_CV.t() @ hidden_ND[part]
        ctx.save_for_backward(grad_ND, grad_VD.to(weight_VD.dtype))
        return total / tokens

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return *[grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors], None


def heads(bench: Bench, hidden: Any, weight: Any, targets: Any, domain: Any) -> dict[str, Callable[[], Any]]:
    """Return the ways to a loss that can be differentiated, by name."""

    def logits() -> torch.Tensor:
        return F.linear(hidden, weight).float()

    def summed() -> torch.Tensor:
        each = F.cross_entropy(logits(), targets, reduction="none")
        ms.domain_sums(each, domain, 22)
        return each.mean()

    ways: dict[str, Callable[[], Any]] = {
        "F.cross_entropy": lambda: F.cross_entropy(logits(), targets),
        "F.cross_entropy, domain_sums": summed,
        "chunked, as Liger's": lambda: _Chunked.apply(hidden, weight, targets),
        "domain_cross_entropy": lambda: ms.domain_cross_entropy(hidden, weight, targets, domain, domains=22)[0],
    }
    if not bench.tiny:
        compiled = torch.compile(lambda h, w, t: F.cross_entropy(F.linear(h, w).float(), t))
        ways["F.cross_entropy, compiled"] = lambda: compiled(hidden, weight, targets)
        if importlib.util.find_spec("liger_kernel") is not None:
            from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Liger

            def liger() -> torch.Tensor:
                found = Liger.apply(hidden, weight, targets)
                return found[0] if isinstance(found, tuple) else found

            ways["liger-kernel"] = liger
    return ways


def exact(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """Return loss and gradients in float64, a chunk at a time."""
    one, two = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for part in torch.arange(len(hidden), device=hidden.device).split(1024):
        loss = F.cross_entropy(one[part] @ two.t(), targets[part], reduction="sum") / len(hidden)
        loss.backward()
        total += loss.detach()
    assert one.grad is not None
    assert two.grad is not None
    return [total, one.grad, two.grad]


def losses(bench: Bench, dtype: torch.dtype) -> dict[str, Any]:
    """Compare the ways to losses by domain: time, peak memory, distance to float64."""
    size = (64, 16, 96) if bench.tiny else (8192, 4096, 128_256) if dtype == torch.bfloat16 else (8192, 2048, 32_768)
    tokens, width, classes = size
    torch.manual_seed(0)
    make = {"device": bench.device, "dtype": dtype}
    hidden = torch.randn(tokens, width, **make).requires_grad_()
    weight = (torch.randn(classes, width, **make) / width**0.5).requires_grad_()
    targets = torch.randint(classes, (tokens,), device=bench.device)
    domain = torch.randint(22, (tokens,), device=bench.device)
    reference = exact(hidden, weight, targets)
    found: dict[str, Any] = {"tokens, width, classes": size}
    for name, way in heads(bench, hidden, weight, targets, domain).items():
        try:
            found[name] = measured(bench, way, hidden, weight, reference)
        except Exception as error:
            if name == "domain_cross_entropy":
                raise
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
    ours, theirs = found["domain_cross_entropy"], found["F.cross_entropy, domain_sums"]
    floor = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for what, distance in ours["distance to float64"].items():
        limit = max(floor, 2 * theirs["distance to float64"][what]) if isinstance(theirs, dict) else floor
        if not distance <= limit:
            raise AssertionError(f"{what} is {distance:.1e} from float64, at most {limit:.1e}: {found}")
    return found


def measured(bench: Bench, way: Any, hidden: Any, weight: Any, reference: list[torch.Tensor]) -> dict[str, Any]:
    """Return what one way costs, and how far it is from float64."""

    def step() -> torch.Tensor:
        hidden.grad = weight.grad = None
        loss = way()
        loss.backward()
        return loss.detach()

    loss = step()
    names, got = ("loss", "grad of hidden", "grad of weight"), [loss, hidden.grad, weight.grad]
    distance = {
        name: float((ours.double() - there).norm() / there.norm()) for name, ours, there in zip(names, got, reference)
    }
    del got
    hidden.grad = weight.grad = None
    peak = 0
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peak = torch.cuda.max_memory_allocated() - before
    taken = [bench.seconds(step) for _ in range(2 if bench.tiny else 7)]
    return {
        "ms": round(1e3 * statistics.median(taken), 2),
        "lowest, highest": [round(1e3 * min(taken), 2), round(1e3 * max(taken), 2)],
        "peak MiB": round(peak / 2**20),
        "distance to float64": distance,
    }


def reports(bench: Bench, root: Path) -> str:
    """Report losses while what waits for the device is an error."""
    cuda = bench.device.type == "cuda"
    streams = [ms.Stream(local=str(root / str(k)), name=f"domain {k}") for k in range(bench.domains)]
    dataset = ms.StreamingDataset(streams=streams, batch_size=16, shuffle=True, mixer=ms.mixers.MatrixMixer(), lag=4)
    with ms.Loader(dataset, device=bench.device, prefetch=4) as loader:
        for batch in itertools.islice(endless(loader), 20):
            loss = torch.rand(16, bench.tokens - 1, device=bench.device)
            mask = batch["tokens"][:, 1:] != 0
            matrix = torch.rand(bench.domains, bench.domains, device=bench.device)
            with torch.cuda.device(bench.device) if cuda else nullcontext():
                if cuda:
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    loader.report(batch, loss, mask=mask, matrix=matrix)
                finally:
                    if cuda:
                        torch.cuda.set_sync_debug_mode("default")
        loader.state_dict()
    return "no wait"


def machine(bench: Bench) -> dict[str, Any]:
    """Return what it was measured on."""
    cuda = bench.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "rehearsal": bench.tiny,
    }


def main() -> int:
    """Run all parts; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--rehearse", action="store_true", help="run on the CPU with tiny sizes: checks the script only"
    )
    rehearse = parser.parse_args().rehearse
    if not rehearse and not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return 0
    bench = Bench(rehearse=rehearse)
    bench.part("machine", lambda: machine(bench))
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        bench.part("write", lambda: bench.write(root))
        bench.part("a: batches", lambda: equality(bench, root))
        bench.part("e: reports", lambda: reports(bench, root))
        bench.part("b: feed", lambda: feed(bench, root))
        bench.part("c: overlap", lambda: overlap(bench, root))
        bench.part("d: losses, bfloat16", lambda: losses(bench, torch.bfloat16))
        bench.part("d: losses, float32", lambda: losses(bench, torch.float32))
    if not rehearse:
        out = Path(os.environ.get("OUT", "runs"))
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu.json").write_text(json.dumps({**bench.found, "failed": bench.failed}, indent=1))
    print(f"{time.perf_counter() - bench.began:.0f} s; failed: {bench.failed or 'nothing'}")
    return int(bool(bench.failed))


if __name__ == "__main__":
    sys.exit(main())
