"""What `documents=True` costs: tokens/s of `Loader` with the columns of documents beside plain batches, on one core.

    python bench/documents.py [--megabytes 32] [--batch-size 64] [--seq-len 2048] [--rounds 7]

Documents of heavy-tailed lengths (lognormal, 1,360 tokens on average, as those of the OpenWebText fixture of
Megatron-DeepSpeed), written once below bench/data: as packed rows by `mixstream convert`, whose sidecar knows the
borders; the same rows without it, whose borders are found by the end token; a Megatron pair, read as rows, whose index
lists them; and best-fit rows of that pair. The loaders take turns in one process, pinned to one core; a turn of each is
an epoch, timed in CPU seconds. The columns have 20 bytes a token (int64 positions and labels, int32 document numbers),
beside 8 of the tokens; `written` is a loop over plain batches that writes as many by numpy, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms
from mixstream.plan.compiled import compile_at_once
from mixstream_tools.cli import main as command
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion

DATA = Path(__file__).parent / "data"
EOS, AHEAD = 256, 6
BUFFERS: list[list[np.ndarray]] = []
"""Of the batches that a loader has made and the trainer has."""


def lengths(total: int) -> np.ndarray:
    """Return lengths of documents that add up to about `total` tokens."""
    sigma = 1.2
    drawn = np.random.default_rng(0).lognormal(np.log(1360) - sigma**2 / 2, sigma, 2 * total // 1360)
    found = np.maximum(drawn.astype(np.int64), 1)
    return found[: np.searchsorted(np.cumsum(found), total)]


def corpus(megabytes: int, seq_len: int) -> dict[str, ms.Stream]:
    """Write the datasets once; return a stream of each."""
    place = DATA / f"documents-{megabytes}-{seq_len}"
    length_N = lengths(megabytes << 20)
    if not place.exists():
        partial = place.with_name(f"{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        letters = np.random.default_rng(1).integers(97, 123, int(length_N.sum()), dtype=np.uint8)
        with (partial / "text.jsonl").open("w") as file:
            for end, length in zip(np.cumsum(length_N).tolist(), length_N.tolist()):
                file.write(json.dumps({"text": letters[end - length : end - 1].tobytes().decode()}) + "\n")
        made = Recipe(tokenizer=describe_tokenizer("bytes"), seq_len=seq_len, fields=Fields(text="text"))
        run_conversion([str(partial / "text.jsonl")], out=partial / "out", recipe=made)
        shutil.copytree(partial / "out/text/train", partial / "ends")
        index = json.loads((partial / "ends/index.json").read_bytes())
        del index["mixstream"]["documents_files"]
        (partial / "ends/index.json").write_text(json.dumps(index))
        megatron(partial / "pair", letters, length_N)
        packing = ["pack", str(partial / "pair.idx"), "--seq-len", str(seq_len), "--algorithm", "best-fit"]
        if command([*packing, "--pad-id", str(EOS), "--out", str(partial / "packed")]):
            raise SystemExit("mixstream pack failed")
        partial.rename(place)
        print(f"wrote {place}", file=sys.stderr)
    pair = {"remote": str(place / "pair.idx")}
    return {
        "sidecar": ms.Stream(local=str(place / "out/text/train")),
        "end token": ms.Stream(local=str(place / "ends")),
        "border file (.idx)": ms.Stream(**pair, seq_len=seq_len),
        "packing (best-fit)": ms.Stream(**pair, packing=str(place / "packed"), name="pair"),
    }


def megatron(path: Path, letters: np.ndarray, length_N: np.ndarray) -> None:
    """Write a Megatron pair of documents that token 256 ends."""
    tokens = letters.astype("<u2")
    tokens[np.cumsum(length_N) - 1] = EOS
    tokens.tofile(path.with_suffix(".bin"))
    count = len(length_N)
    head = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x08"
    counts = count.to_bytes(8, "little") + (count + 1).to_bytes(8, "little")
    arrays = (
        length_N.astype("<i4"),
        (2 * (np.cumsum(length_N) - length_N)).astype("<i8"),
        np.arange(count + 1, dtype="<i8"),
    )
    path.with_suffix(".idx").write_bytes(head + counts + b"".join(array.tobytes() for array in arrays))


def epoch(loader: Iterable[Any]) -> tuple[int, float]:
    """Return tokens and CPU seconds of an epoch."""
    began, tokens = time.process_time(), 0
    for batch in loader:
        tokens += batch["tokens"].numel()
    return tokens, time.process_time() - began


def written(loader: Iterable[Any]) -> tuple[int, float]:
    """As `epoch`; for each batch, write as much as the columns of documents have, to as many buffers in turn."""
    began, tokens = time.process_time(), 0
    for number, batch in enumerate(loader):
        found = batch["tokens"].numpy()
        if len(BUFFERS) < AHEAD:
            BUFFERS.append([np.empty(found.shape, dtype) for dtype in (np.int64, np.int64, np.int32)])
        for array in BUFFERS[number % len(BUFFERS)]:
            array[:] = found
        tokens += found.size
    return tokens, time.process_time() - began


def compare(stream: ms.Stream, *, batch_size: int, rounds: int) -> str:
    """Return one line of the table."""

    def loader(**options: Any) -> ms.Loader:
        dataset = ms.StreamingDataset(streams=[stream], batch_size=batch_size, shuffle=True, drop_last=True)
        return ms.Loader(dataset, **options)

    with loader() as plain, loader(documents=True) as marked, loader() as other:
        ways: list[tuple[Callable[[Any], tuple[int, float]], Any]] = [(epoch, plain), (epoch, marked), (written, other)]
        rates: list[list[float]] = [[], [], []]
        for turn in range(rounds + 1):
            for at in (turn % 3, (turn + 1) % 3, (turn + 2) % 3):
                tokens, seconds = ways[at][0](ways[at][1])
                if turn:  # the first reads the files and compiles
                    rates[at].append(tokens / seconds)
    rate = [statistics.median(each) / 1e6 for each in rates]
    ratio = statistics.median(b / a for a, b in zip(rates[0], rates[1]))
    least = statistics.median(b / a for a, b in zip(rates[0], rates[2]))
    return f"{rate[0]:8.0f} {rate[1]:8.0f} {ratio:8.2f} {least:8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=32, help="million tokens, 2**20 each")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    compile_at_once()
    given = parser.parse_args()
    streams = corpus(given.megabytes, given.seq_len)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"rows of {given.seq_len} uint16 tokens, batches of {given.batch_size}, million tokens per CPU second")
    print(f"{'borders':20} {'plain':>8} {'marked':>8} {'ratio':>8} {'written':>8}")
    for name, stream in streams.items():
        print(f"{name:20} {compare(stream, batch_size=given.batch_size, rounds=given.rounds)}", flush=True)


if __name__ == "__main__":
    main()
