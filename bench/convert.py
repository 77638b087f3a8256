"""How fast text becomes shards: MB/s and tokens/s beside the bare tokenizer and four other converters.

    bench/convert.sh [--mb 16] [--threads 1] [--rounds 3] [--tokenizer PATH …] [--only NAME …]

`convert.sh` makes the environment with the other converters; without it, those that are not installed are skipped by
name. The text is real: Python sources, documentation and licences of this machine, written once below bench/data as
text files, JSON Lines, zstd and, with this version's reader, Parquet. In a round every contender takes its turn, in a
process of its own, from the same sources to its own files on the same disk:

    bare tokenizer        the text in memory, 1000 documents a call, ids dropped: what is left is overhead
    mixstream             `mixstream convert`, rows of 2048 tokens
    datasets              load_dataset, map(batched) to ids, map to rows, save_to_disk
    datatrove             a reader and DocumentTokenizer, without shuffling
    mosaicml-streaming    a loop of encode_batch and MDSWriter
    litdata               optimize() with TokensLoader

The others write no sidecar of documents, no card and no hashes of documents; convert's time has them. Each is given
`--threads`: as processes where it has them, else as threads of the tokenizer. Seconds are of the conversion alone,
after imports and after the tokenizer was loaded where a converter lets us tell. Speeds are per core; the ratio is that
to the bare tokenizer of the same round. CPU is of the process and its children.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "convert"
SEQ, BATCH = 2048, 1000
END = "<|endoftext|>"
VOCABULARY = 32_000
PACKAGES = {"datasets": "datasets", "datatrove": "datatrove", "mosaicml-streaming": "streaming", "litdata": "litdata"}


# -- text and tokenizer ------------------------------------------------------------------------------------------------


def documents() -> Iterator[str]:
    """Yield texts of this machine, in an order that depends on its files alone."""
    roots = [Path(os.__file__).parent, Path("/usr/share/doc"), Path("/usr/share/common-licenses")]
    streams = [sorted(path for path in root.rglob("*") if path.suffix in {".py", ".txt", ".md", ""}) for root in roots]
    for paths in zip(*[each * (1 + max(map(len, streams)) // max(len(each), 1)) for each in streams], strict=False):
        for path in dict.fromkeys(paths):
            try:
                text = path.read_text() if path.is_file() and path.stat().st_size < 1 << 20 else ""
            except (UnicodeDecodeError, OSError):
                continue
            if text.strip() and "\0" not in text:
                yield text


def prepare(mb: int) -> dict[str, Path]:
    """Write the sources once; return them by kind."""
    place = DATA / f"{mb}mb"
    kinds = {
        "jsonl": place / "jsonl/text.jsonl",
        "jsonl.zst": place / "zst/text.jsonl.zst",
        "text files": place / "text",
    }
    if importlib.util.find_spec("mixstream_tools.convert.readers.parquet") is not None:
        kinds["parquet"] = place / "parquet/text.parquet"
    if all(path.exists() for path in [place / "ready", *kinds.values()]):
        return kinds
    import zstandard

    shutil.rmtree(place, ignore_errors=True)
    for path in kinds.values():
        (path if path.suffix == "" else path.parent).mkdir(parents=True, exist_ok=True)
    texts, size, seen = [], 0, set()
    for text in documents():
        if size >= mb << 20:
            break
        if hash(text) not in seen:
            seen.add(hash(text))
            texts.append(text)
            size += len(text.encode())
    lines = "".join(json.dumps({"id": at, "text": text}) + "\n" for at, text in enumerate(texts)).encode()
    kinds["jsonl"].write_bytes(lines)
    kinds["jsonl.zst"].write_bytes(zstandard.compress(lines))
    for at, text in enumerate(texts):
        (kinds["text files"] / f"{at:06}.txt").write_text(text)
    if "parquet" in kinds:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"id": range(len(texts)), "text": texts}), kinds["parquet"])
    (place / "ready").touch()
    return kinds


def texts_of(source: Path) -> list[str]:
    """The documents in memory."""
    jsonl = next((DATA / source.relative_to(DATA).parts[0]).glob("jsonl/*.jsonl"))
    return [json.loads(line)["text"] for line in jsonl.open()]


def train(mb: int) -> Path:
    """A tokenizer.json of 32,000 tokens, made by `convert --train-bpe` of the text itself."""
    path = DATA / f"{mb}mb" / "bpe/tokenizer/tokenizer.json"
    if not path.exists():
        from mixstream_tools.cli import main

        source = prepare(mb)["jsonl"]
        main(["convert", str(source), "--out", str(path.parents[1]), "--train-bpe", str(VOCABULARY), "--json"])
    return path


# -- contenders: each returns the number of tokens, and calls `begin` when it is ready ---------------------------------


def bare(source: Path, out: Path, tokenizer: str, threads: int, begin: Callable[[], None]) -> int:
    from mixstream_tools.convert import describe_tokenizer

    spec, texts = describe_tokenizer(tokenizer), texts_of(source)
    batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
    if spec.source.kind == "tokenizer.json":
        import tokenizers

        library = tokenizers.Tokenizer.from_file(spec.path)
        encode = lambda batch: [each.ids for each in library.encode_batch_fast(batch, add_special_tokens=False)]  # noqa: E731
    elif spec.source.kind == "sentencepiece":
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=spec.path)
        encode = lambda batch: processor.encode(batch, out_type=int, num_threads=threads)  # noqa: E731
    elif spec.source.kind == "tiktoken":
        encoding = spec.load()._encoding  # type: ignore[attr-defined]  # as the package makes it of the same files
        encode = lambda batch: encoding.encode_ordinary_batch(batch, num_threads=threads)  # noqa: E731
    else:
        encode = lambda batch: [text.encode() for text in batch]  # noqa: E731
    begin()
    return sum(len(ids) + 1 for batch in batches for ids in encode(batch))


def mixstream(source: Path, out: Path, tokenizer: str, threads: int, begin: Callable[[], None]) -> int:
    from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion
    from mixstream_tools.shared.console import Console

    recipe = Recipe(tokenizer=describe_tokenizer(tokenizer), fields=Fields(text="text"), seq_len=SEQ)
    begin()
    told = run_conversion([f"x={source}"], out=out, recipe=recipe, workers=threads, console=Console(as_json=True))
    counts = told["domains"]["x"]["train"]
    return counts["tokens"] + counts["dropped_tokens"]


def hf_datasets(source: Path, out: Path, tokenizer: str, threads: int, begin: Callable[[], None]) -> int:
    import datasets
    import tokenizers

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = out / "cache"
    library = tokenizers.Tokenizer.from_file(tokenizer)
    end = library.token_to_id(END)

    def ids_of(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {
            "ids": [[*each.ids, end] for each in library.encode_batch_fast(batch["text"], add_special_tokens=False)]
        }

    def rows_of(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = [token for ids in batch["ids"] for token in ids]
        return {"input_ids": [joined[at : at + SEQ] for at in range(0, len(joined) - SEQ + 1, SEQ)]}

    begin()
    kind = {"parquet": "parquet", "text": "text"}.get(source.name.rpartition(".")[2], "json")
    more = (
        {"sample_by": "document", "data_files": str(source / "*.txt")}
        if kind == "text"
        else {"data_files": str(source)}
    )
    loaded = datasets.load_dataset(kind, split="train", cache_dir=str(out / "cache"), **more)
    processes = threads if threads > 1 else None
    ids = loaded.map(ids_of, batched=True, num_proc=processes, remove_columns=loaded.column_names)
    rows = ids.map(rows_of, batched=True, num_proc=processes, remove_columns=["ids"])
    rows.save_to_disk(str(out / "saved"))
    return len(rows) * SEQ


def datatrove(source: Path, out: Path, tokenizer: str, threads: int, begin: Callable[[], None]) -> int:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader, ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    reader = ParquetReader if source.suffix == ".parquet" else JsonlReader
    steps = [
        reader(str(source.parent), glob_pattern=source.name),
        DocumentTokenizer(
            output_folder=str(out / "tokens"), tokenizer_name_or_path=tokenizer, eos_token=END, batch_size=BATCH,
            shuffle_documents=False, save_filename="tokens",
        ),
    ]  # fmt: skip
    begin()
    LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=str(out / "logs")).run()
    return sum(path.stat().st_size for path in (out / "tokens").glob("*.ds")) // 2


def mosaic(source: Path, out: Path, tokenizer: str, threads: int, begin: Callable[[], None]) -> int:
    import numpy as np
    import tokenizers
    from streaming import MDSWriter

    library = tokenizers.Tokenizer.from_file(tokenizer)
    end, held, tokens = library.token_to_id(END), np.empty(0, np.uint16), 0
    begin()
    columns = {"tokens": f"ndarray:uint16:{SEQ}"}
    with MDSWriter(out=str(out / "mds"), columns=columns, hashes=["xxh64"], size_limit=1 << 26) as writer:
        for batch in _batches(source):
            encoded = library.encode_batch_fast(batch, add_special_tokens=False)
            held = np.concatenate([held, *(np.array([*each.ids, end], np.uint16) for each in encoded)])
            whole = len(held) // SEQ * SEQ
            for row in held[:whole].reshape(-1, SEQ):
                writer.write({"tokens": row})
            tokens, held = tokens + whole, held[whole:]
    return tokens + len(held)


def litdata(source: Path, out: Path, tokenizer: str, threads: int, begin: Callable[[], None]) -> int:
    import litdata

    begin()
    litdata.optimize(
        fn=partial(_tensors, tokenizer=tokenizer), inputs=[str(source)], output_dir=str(out / "lit"),
        chunk_size=SEQ * 8192, num_workers=1, item_loader=litdata.TokensLoader(block_size=SEQ), reorder_files=False,
        verbose=False,
    )  # fmt: skip
    return sum(chunk["dim"] for chunk in json.loads((out / "lit/index.json").read_bytes())["chunks"])


def _tensors(path: str, *, tokenizer: str) -> Iterator[Any]:
    """The documents of a file, as litdata's workers make them."""
    import numpy as np
    import tokenizers
    import torch

    library = tokenizers.Tokenizer.from_file(tokenizer)
    end = library.token_to_id(END)
    for batch in _batches(Path(path)):
        for each in library.encode_batch_fast(batch, add_special_tokens=False):
            yield torch.from_numpy(np.array([*each.ids, end], np.int32))


def _batches(source: Path) -> Iterator[list[str]]:
    """The documents of JSON Lines or text files, as the loops of users read them."""
    texts: Iterator[str]
    if source.is_dir():
        texts = (path.read_text() for path in sorted(source.glob("*.txt")))
    else:
        import zstandard

        opened = zstandard.open(source, "rt") if source.suffix == ".zst" else source.open()
        texts = (json.loads(line)["text"] for line in opened)
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


CONTENDERS: dict[str, Callable[..., int]] = {
    "bare tokenizer": bare,
    "mixstream": mixstream,
    "datasets": hf_datasets,
    "datatrove": datatrove,
    "mosaicml-streaming": mosaic,
    "litdata": litdata,
}
ALL_SOURCES = {"bare tokenizer", "mixstream"}
"""The others are timed on JSON Lines, with a tokenizer.json."""


# -- rounds ------------------------------------------------------------------------------------------------------------


def turn(name: str, source: Path, tokenizer: str, threads: int) -> dict[str, float]:
    """One conversion, in a process of its own."""
    out = DATA / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
    command = [sys.executable, "-W", "ignore", __file__, "--turn", name, str(source), tokenizer, str(threads)]
    ran = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, check=False)
    shutil.rmtree(out, ignore_errors=True)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode or not lines:
        reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"{name}: exit status {ran.returncode}: {reason}")
    return json.loads(lines[-1])


def take_turn(name: str, source: str, tokenizer: str, threads: str) -> None:
    """What a process of `turn` does."""
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    began: list[float] = []

    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    def begin() -> None:
        began[:] = [time.perf_counter(), cpu()]

    tokens = CONTENDERS[name](Path(source), DATA / "out", tokenizer, int(threads), begin)
    print()
    print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - began[0], "cpu": cpu() - began[1]}))


def versions() -> str:
    """The versions of what is compared."""
    known = ["mixstream-data", "tokenizers", "sentencepiece", "tiktoken", *PACKAGES, "numpy", "torch", "pyarrow"]
    found = []
    for name in known:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokenizer", action="append", default=[])
    parser.add_argument("--only", action="append", default=[], choices=CONTENDERS)
    parser.add_argument("--turn", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turn:
        take_turn(*given.turn)
        return 0
    sources, trained = prepare(given.mb), str(train(given.mb))
    size = sum(len(text.encode()) for text in texts_of(sources["jsonl"]))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(versions())
    print(f"{size / 1e6:.1f} MB of text, {given.threads} threads, median of {given.rounds} rounds\n")
    wanted = [name for name in CONTENDERS if not given.only or name in given.only or name == "bare tokenizer"]
    missing = [name for name in wanted if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None]
    for name in missing:
        print(f"skipped: {name} is not installed (bench/convert.sh installs it)")
    plan = [("jsonl", trained, [name for name in wanted if name not in missing])]
    plan += [(kind, trained, [each for each in wanted if each in ALL_SOURCES]) for kind in sources if kind != "jsonl"]
    plan += [
        ("jsonl", named, [each for each in wanted if each in ALL_SOURCES]) for named in [*given.tokenizer, "bytes"]
    ]
    print("per core: MB/s and million tokens/s; to bare: speed and CPU against the bare tokenizer\n")
    print(f"{'source':<11} {'tokenizer':<22} {'converter':<19} {'MB/s':>7} {'Mtok/s':>7} {'to bare':>8} {'CPU':>6}")
    failed = 0
    for kind, tokenizer, names in plan:
        failed += table(kind, sources[kind], tokenizer, names, size=size, threads=given.threads, rounds=given.rounds)
    return int(bool(failed))


def table(kind: str, source: Path, tokenizer: str, names: list[str], *, size: int, threads: int, rounds: int) -> int:
    """Print the lines of one source and tokenizer; return how many contenders failed."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for at in range(rounds):
        for name in names[at % len(names) :] + names[: at % len(names)]:
            if name not in failed:
                try:
                    found[name].append(turn(name, source, tokenizer, threads))
                except RuntimeError as error:
                    failed[name] = str(error)
    label = (
        Path(tokenizer).parent.parent.name if tokenizer.endswith("tokenizer/tokenizer.json") else Path(tokenizer).name
    )
    for name in names:
        if name in failed:
            print(f"{kind:<11} {label:<22} failed: {failed[name]}", flush=True)
            continue
        bare_turns, turns = found["bare tokenizer"], found[name]
        seconds = statistics.median(each["seconds"] for each in turns)
        ratio = statistics.median(b["seconds"] / each["seconds"] for b, each in zip(bare_turns, turns))
        cpu = statistics.median(b["cpu"] / each["cpu"] for b, each in zip(bare_turns, turns))
        speed, tokens = size / 1e6 / seconds / threads, turns[0]["tokens"] / 1e6 / seconds / threads
        print(f"{kind:<11} {label:<22} {name:<19} {speed:7.2f} {tokens:7.2f} {ratio:8.2f} {cpu:6.2f}", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
