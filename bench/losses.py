"""What losses by domain cost at the model's head: time and peak memory of three ways, forward and backward.

    python bench/losses.py [--tokens 4096] [--width 256] [--vocab 16384] [--domains 22] [--chunk 1024]

(a) logits in memory, cross-entropy with reduction="none", `domain_sums`; (b) torch's fused `linear_cross_entropy` with
reduction="none", where torch has it, in chunks as large as ours (its own choice makes far smaller ones of shapes
like these, which is slower), `domain_sums`; (c) `domain_cross_entropy`. All three give the same loss, gradients
and sums, which is checked first. They take turns in one process, and who goes first changes from turn to turn; ratios
are of times within a turn. Peak memory is what one step adds to what its inputs take: on a GPU the allocator's own
count, on the CPU the process's high-water mark, each way in a process of its own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from mixstream import domain_cross_entropy, domain_sums

Result = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Head:
    """The inputs of one step, seeded, and the ways to go about it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.domains, self.device, self.chunk = options.domains, torch.device(options.device), options.chunk
        make = {"device": self.device, "dtype": getattr(torch, options.dtype)}
        self.hidden = torch.randn(options.tokens, options.width, **make).requires_grad_()
        self.weight = (torch.randn(options.vocab, options.width, **make) / options.width**0.5).requires_grad_()
        self.targets = torch.randint(options.vocab, (options.tokens,), device=self.device)
        self.domain = torch.randint(options.domains, (options.tokens,), device=self.device)

    def materialised(self) -> Result:
        """All logits, then the loss of every token."""
        each = F.cross_entropy(F.linear(self.hidden, self.weight).float(), self.targets, reduction="none")
        return each.mean(), *domain_sums(each, self.domain, self.domains)

    def torch_fused(self) -> Result:
        """Torch's chunked loss of every token, which makes the logits a second time in backward."""
        options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=self.chunk)
        each = F.linear_cross_entropy(self.hidden, self.weight, self.targets, reduction="none", options=options)
        return each.float().mean(), *domain_sums(each, self.domain, self.domains)

    def ours(self) -> Result:
        """Chunked, with the gradients formed in forward."""
        return domain_cross_entropy(
            self.hidden, self.weight, self.targets, self.domain, domains=self.domains, chunk=self.chunk
        )

    def ways(self) -> dict[str, Callable[[], Result]]:
        """Return name -> way, of those that this torch has."""
        fused = {"torch fused none": self.torch_fused} if hasattr(F, "linear_cross_entropy") else {}
        return {"logits in memory": self.materialised, **fused, "domain_cross_entropy": self.ours}

    def step(self, way: Callable[[], Result]) -> Result:
        """Run forward and backward; return what came out."""
        self.hidden.grad = self.weight.grad = None
        result = way()
        result[0].backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return result


def check(head: Head) -> None:
    """Stop if the ways do not agree."""
    found = []
    for way in head.ways().values():
        loss, sums, _ = head.step(way)
        found.append((loss.double(), head.hidden.grad.double(), head.weight.grad.double(), sums))
    tolerance = 1e-4 if head.hidden.dtype == torch.float32 else 3e-2
    for name, result in zip(head.ways(), found):
        for ours, reference in zip(result, found[0]):
            if (ours - reference).norm() > tolerance * reference.norm():
                raise SystemExit(f"{name} does not agree with the logits in memory")


def times(head: Head, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every turn of every way."""
    ways = list(head.ways().items())
    seconds: dict[str, list[float]] = {name: [] for name, _ in ways}
    for turn in range(rounds):
        for name, way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            began = time.perf_counter()
            head.step(way)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def peak(head: Head, name: str) -> float:
    """Return the bytes that one step adds at most to what is there before; once per process on the CPU."""
    if head.device.type == "cuda":
        head.hidden.grad = head.weight.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        head.step(head.ways()[name])
        return torch.cuda.max_memory_allocated() - before
    small = torch.randn(64, 64, requires_grad=True)
    F.cross_entropy(small @ small, torch.zeros(64, dtype=torch.int64)).backward()  # threads and their stacks
    before = high_water()
    head.step(head.ways()[name])
    return high_water() - before


def high_water() -> int:
    """Return the most bytes that this process has held at a time."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--domains", type=int, default=22)
    parser.add_argument("--chunk", type=int, default=1024, help="tokens whose logits are held at a time")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way takes")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # one way's peak, for the process that asks
    options = parser.parse_args()
    head = Head(options)
    if options.peak:
        print(peak(head, options.peak))
        return
    check(head)
    seconds = times(head, options.rounds)
    where = torch.cuda.get_device_name() if head.device.type == "cuda" else platform.processor() or platform.machine()
    mib = {"inputs": head.hidden.nbytes + head.weight.nbytes, "logits": 4 * options.tokens * options.vocab}
    print(
        f"{where}, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch {torch.__version__}; "
        f"{options.tokens} tokens x {options.width}, {options.vocab} classes, {options.domains} domains, "
        f"{options.dtype}, chunks of {options.chunk} tokens; inputs {mib['inputs'] / 2**20:.0f} MiB, logits in float32 "
        f"{mib['logits'] / 2**20:.0f} MiB"
    )
    print("way                    seconds   time / logits in memory [min, max]   peak MiB   peak / logits in memory")
    peaks = {}
    for name in head.ways():
        if head.device.type == "cuda":
            peaks[name] = peak(head, name)
        else:
            again = [sys.executable, __file__, *sys.argv[1:], "--peak", name]
            peaks[name] = float(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
    first = next(iter(peaks))
    for name, taken in peaks.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds[name], seconds[first])]
        print(
            f"{name:21} {statistics.median(seconds[name]):>8.3f}   {statistics.median(ratios):>8.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]{'':15} {taken / 2**20:>9.0f}   {taken / peaks[first]:>8.2f}"
        )


if __name__ == "__main__":
    main()
