"""What packing wastes and cuts on documents of real lengths, how fast it packs, and how fast packed rows are read.

    python bench/packing.py [--seq-len 2048] [--rounds 7]

Lengths are those of texts that every machine has: the files of Python's library and the READMEs of installed packages
(`mixstream demo` reads the same), at four bytes a token; and of a Megatron pair of the tests. Shards are of 64 MiB of
uint16, so that each corpus is one shard. Reading compares two datasets of the same tokens: stored rows of one length,
and packed rows of documents, in turns, pinned to one core.

Beside the waste stand numbers that others measured, on other documents: nanochat's log of 2026-01-13 (dev/LOG.md; rows
of 2,048 tokens): greedy-crop 39.4% of tokens cropped; greedy-pad 22% padding and 23.0% cropped; first-fit-decreasing
0.3% padding and 23.0% cropped; best-fit-crop 34.6% cropped, where 22.9% lie in documents longer than a row.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path

import msgspec
import numpy as np

import mixstream as ms
from mixstream.packing import PackingSettings, document_source, merge_packing, pack_documents, write_part
from mixstream.plan.compiled import compile_at_once
from mixstream.selection import DomainRows, provenance
from mixstream_tools.demo.text import DOMAINS

HERE = Path(__file__).parent
PAIR = HERE.parent / "tests/data/megatron/ag_news_prompt_inputs_document.idx"
DATA = HERE / "data/packing"


def corpora() -> dict[str, np.ndarray]:
    """Return tokens of each document, by corpus."""
    found = {}
    for domain in DOMAINS:
        found[domain.about] = np.array([max(len(text.encode()) // 4, 1) for text in domain.documents()], dtype=np.int64)
    idx = PAIR.read_bytes()
    found["ag_news, a Megatron pair"] = np.frombuffer(idx, "<i4", count=100, offset=34).astype(np.int64)
    return found


def waste(seq_len: int) -> None:
    """Print padding, cut documents and dropped tokens of each algorithm."""
    for name, tokens_D in corpora().items():
        total, long = int(tokens_D.sum()), tokens_D[tokens_D > seq_len]
        beyond = int((long - seq_len).sum())
        print(
            f"\n{name}: {len(tokens_D):,} documents, {total:,} tokens, median {int(np.median(tokens_D)):,}, longest "
            f"{int(tokens_D.max()):,}; {len(long) / len(tokens_D):.1%} are longer than a row of {seq_len:,}, and "
            f"{beyond / total:.1%} of all tokens lie beyond"
        )
        print(f"{'':28}{'rows':>8}{'padding':>10}{'cut documents':>15}{'dropped tokens':>16}")
        for algorithm, long_documents in (
            ("concat", "cut"),
            ("best-fit", "cut"),
            ("first-fit", "cut"),
            ("best-fit", "truncate"),
            ("best-fit", "drop"),
        ):
            made = pack_documents(tokens_D, seq_len=seq_len, algorithm=algorithm, long_documents=long_documents)  # type: ignore[arg-type]
            room = made.rows * seq_len
            padding = 1 - int(made.tokens_N.sum()) / max(room, 1)
            label = algorithm if long_documents == "cut" else f"{algorithm}, long ones: {long_documents}"
            cut, dropped = made.cut / made.documents, made.dropped / total
            print(f"{label:28}{made.rows:>8,}{padding:>10.2%}{cut:>15.1%}{dropped:>16.2%}")


def speed(seq_len: int) -> None:
    """Print documents packed in a second, of heavy-tailed lengths."""
    tokens_D = (np.random.default_rng(0).pareto(1.2, 1_000_000) * 300 + 20).astype(np.int64)
    print(f"\npacking {len(tokens_D):,} documents of {tokens_D.mean():.0f} tokens in the mean, one core:")
    for algorithm in ("concat", "best-fit", "first-fit"):
        pack_documents(tokens_D[:100], seq_len=seq_len, algorithm=algorithm)  # type: ignore[arg-type]  # compiled
        began = time.perf_counter()
        made = pack_documents(tokens_D, seq_len=seq_len, algorithm=algorithm)  # type: ignore[arg-type]
        took = time.perf_counter() - began
        padding = 1 - int(made.tokens_N.sum()) / (made.rows * seq_len)
        print(f"{algorithm:12}{len(tokens_D) / took / 1e6:>8.2f} million documents/s{padding:>10.3%} padding")


def datasets(seq_len: int) -> dict[str, ms.Stream]:
    """Write rows of one length, and documents with a packing of them, once."""
    shutil.rmtree(DATA, ignore_errors=True)
    rng = np.random.default_rng(1)
    lengths = (rng.pareto(1.2, 60_000) * 300 + 20).astype(np.int64).clip(max=20_000)
    tokens = rng.integers(0, 50_000, int(lengths.sum()), dtype=np.uint16)
    with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{seq_len}"}, out=str(DATA / "rows")) as writer:
        for row in tokens[: len(tokens) // seq_len * seq_len].reshape(-1, seq_len):
            writer.write({"tokens": row})
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16"}, out=str(DATA / "documents")) as writer:
        for document in np.split(tokens, np.cumsum(lengths)[:-1]):
            writer.write({"tokens": document})
    rows = DomainRows.open(str(DATA / "documents"), name="documents")
    source = document_source(rows.domain)
    streams = {"stored rows": ms.Stream(remote=str(DATA / "rows"))}
    for algorithm in ("best-fit", "concat"):
        pad_id = 0 if algorithm == "best-fit" else None
        settings = PackingSettings(seq_len=seq_len, algorithm=algorithm, pad_id=pad_id)
        made, out = provenance(msgspec.to_builtins(settings)), DATA / algorithm
        write_part(out, source, table=rows.table, settings=settings, made=made)
        packing = merge_packing(out, table=rows.table, parts=1, made=made)
        print(
            f"{algorithm}: {packing.totals.rows:,} rows, {packing.totals.spans / packing.totals.rows:.1f} spans a row, "
            f"{packing.waste:.2%} padding"
        )
        streams[f"packed, {algorithm}"] = ms.Stream(remote=str(DATA / "documents"), packing=out)
    streams["cut anew (concat, no file)"] = ms.Stream(remote=str(DATA / "rows"), packing="concat", seq_len=seq_len - 48)
    return streams


def reading(seq_len: int, rounds: int) -> None:
    """Print tokens/s of packed rows over those of stored rows."""
    print(f"\nreading rows of {seq_len:,} uint16 tokens as int64, in turns on one core:")
    streams = datasets(seq_len)
    for size in (64, 512):
        loaders = {
            name: ms.Loader(ms.StreamingDataset(streams=[stream], batch_size=size, shuffle=True), documents=False)
            for name, stream in streams.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        iterators = {name: iter(loader) for name, loader in loaders.items()}
        steps = max(4096 // size, 4)
        for turn in range(rounds + 1):
            for name, loader in loaders.items():
                began, tokens = time.perf_counter(), 0
                for _ in range(steps):
                    if (batch := next(iterators[name], None)) is None:
                        iterators[name] = iter(loader)
                        batch = next(iterators[name])
                    tokens += batch["tokens"].numel()
                if turn:
                    rates[name].append(tokens / (time.perf_counter() - began))
        base = statistics.median(rates["stored rows"])
        for name, found in rates.items():
            middle = statistics.median(found)
            share = f"{middle / base:.2f} of stored rows"
            print(f"{size:>4} rows a batch  {name:28}{middle / 1e6:>8.0f} million tokens/s   {share}")
        for loader in loaders.values():
            loader.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    compile_at_once()
    options = parser.parse_args()
    waste(options.seq_len)
    speed(options.seq_len)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    reading(options.seq_len, options.rounds)
    shutil.rmtree(DATA, ignore_errors=True)


if __name__ == "__main__":
    main()
