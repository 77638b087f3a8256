"""The scenarios, by name. Each writes its files, draws what may vary, and says what is read.

Domains of one scenario have rows of one length. Sizes are such that a cache of a third holds some shards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mixstream.data.token_index
from soaking.corpora import PART, Corpus
from soaking.scenario import Scenario

Make = Callable[[Corpus], Scenario]
LENGTH = 128
TOKENS: dict[str, Any] = {"hashed": False, "shard_bytes": PART}


def _mds(corpus: Corpus, **options: Any) -> Scenario:
    streams = corpus.three(number=corpus.dice.random() < 0.5)
    dataset = {"num_canonical_nodes": corpus.dice.choice((1, 2, 4)), "drop_last": corpus.dice.random() < 0.3}
    dataset |= {"shuffle_algo": corpus.dice.choice(("py1e", "py1br", "py2s"))}
    dataset |= {"batching_method": corpus.dice.choice(("random", "random", "per_stream"))}
    return Scenario(**{"streams": streams, "dataset": dataset, "worlds": [1, 2, 4]} | options)


def _schedule(corpus: Corpus) -> Scenario:
    shares = {
        0: {"web": 5, "code": 3, "law": 1},
        150: {"web": 1, "code": 2, "law": 3},
        700: {"web": 8, "code": 1, "law": 1},
    }
    dataset = {"mixer": {str(step): each for step, each in shares.items()}, "num_canonical_nodes": 2}
    return Scenario(name="schedule", streams=corpus.three(), dataset=dataset, worlds=[1, 2, 4], skip=[60, 85])


def _ado(
    corpus: Corpus, *, name: str, together: bool, face: str = "loader", workers: tuple[int, ...] = (0,)
) -> Scenario:
    worlds = [1, 2] if together else [1]
    dataset = {"mixer": "ado", "num_canonical_nodes": corpus.dice.choice((1, 2))}
    loader = {"prefetch": corpus.dice.choice((0, 2, 4))} if face == "loader" else {"prefetch_factor": 2}
    options = {"together": together, "worlds": worlds, "face": face, "workers": list(workers), "loader": loader}
    return Scenario(name=name, streams=corpus.three(), dataset=dataset, **options)


def _quarantine(corpus: Corpus, *, name: str, together: bool = False, ado: bool = False) -> Scenario:
    streams = corpus.three()
    for domain in ("web", "code", "law"):
        corpus.damage(domain, share=0.06)
    dataset = {"on_bad_sample": "quarantine", "num_canonical_nodes": corpus.dice.choice((1, 2))}
    if ado:
        dataset |= {"mixer": "ado"}
    worlds = [1, 2] if together or not ado else [1]
    return Scenario(name=name, streams=streams, dataset=dataset, worlds=worlds, together=together, damaged=True)


# --- selections -----------------------------------------------------------------------------------------------------


def _selection(corpus: Corpus, *, name: str, place: str) -> Scenario:
    streams = corpus.three()
    for stream, share in zip(streams, (0.5, 0.7, 0.9)):
        out = (corpus.origin if place == "@" else corpus.made) / "kept" / stream["name"]
        corpus.select(stream["name"], share, out=out)
        stream["selection"] = f"{place}kept/{stream['name']}"
    return Scenario(
        name=name, streams=streams, dataset={"num_canonical_nodes": corpus.dice.choice((1, 2))}, worlds=[1, 2, 4]
    )


def _selection_of_changed(corpus: Corpus) -> Scenario:
    streams = corpus.three()
    for stream in streams:
        corpus.select(stream["name"], 0.7, out=corpus.made / "kept" / stream["name"])
        corpus.drop_last_shard(stream["name"])
        stream |= {"selection": f"#kept/{stream['name']}", "on_selection_mismatch": "drop"}
    return Scenario(name="selection-after-shards-left", streams=streams)


def _selection_in_mid_run(corpus: Corpus) -> Scenario:
    streams, changes = corpus.three(), []
    for stream in streams:
        for kept in ("first", "second"):
            corpus.select(stream["name"], 0.6, out=corpus.made / kept / stream["name"])
        stream["selection"] = f"#first/{stream['name']}"
        changes.append({"selection": f"#second/{stream['name']}"} if stream["name"] != "law" else {})
    return Scenario(name="selection-changed-in-mid-run", streams=streams, changes=changes)


def _buckets(corpus: Corpus, *, name: str, ado: bool) -> Scenario:
    streams = corpus.three()
    for stream in streams[:2]:
        corpus.score(stream["name"], out=corpus.made / "scores" / stream["name"])
        stream["split_by"] = f"#scores/{stream['name']}/quality:{corpus.dice.choice((2, 4))}"
        if corpus.dice.random() < 0.5:
            corpus.select(stream["name"], 0.7, out=corpus.made / "kept" / stream["name"])
            stream["selection"] = f"#kept/{stream['name']}"
    dataset = {"mixer": "ado"} if ado else {}
    return Scenario(name=name, streams=streams, dataset=dataset, worlds=[1] if ado else [1, 2], together=False)


# --- token files and packings -------------------------------------------------------------------------------------


def _with_parts(make: Make) -> Make:
    """Return `make` in which indexes of token files are of small parts, as in the readers."""

    def made(corpus: Corpus) -> Scenario:
        mixstream.data.token_index.SHARD_BYTES = PART
        return make(corpus)

    return made


def _rows(corpus: Corpus, *, name: str, kinds: tuple[str, ...], **options: Any) -> Scenario:
    places = {
        "pair": lambda: corpus.pair("pair", 4000) and "@pair/pair.idx",
        "trove": lambda: corpus.datatrove("trove", 3000) and "@trove",
        "olmo": lambda: corpus.olmo("olmo", 2400) and "@olmo",
        "parquet": lambda: corpus.parquet("parquet", 2400) and "@parquet",
        "arrow": lambda: corpus.arrow("arrow", 2400) and "@arrow",
    }
    length = corpus.dice.choice((64, 128, 200))
    streams = [{"name": kind, "remote": places[kind](), "seq_len": length} for kind in kinds]
    for stream in streams:
        if stream["name"] == "olmo":
            stream["dtype"] = "uint16"
        if corpus.dice.random() < 0.3:
            stream["overlap"] = 1
    if len({stream.get("overlap", 0) for stream in streams}) > 1:
        streams = [stream | {"overlap": 1} for stream in streams]
    dataset = {"num_canonical_nodes": corpus.dice.choice((1, 2))}
    return Scenario(**{"name": name, "streams": streams, "dataset": dataset, "worlds": [1, 2], **TOKENS, **options})


def _packing(corpus: Corpus, *, name: str, documents: bool, ado: bool = False) -> Scenario:
    pair, trove = corpus.pair("pair", 4000), corpus.datatrove("trove", 3000)
    algorithm = corpus.dice.choice(("best-fit", "first-fit"))
    corpus.select("pair/pair.idx", 0.8, out=corpus.made / "kept", gaps=False)
    corpus.pack(
        pair, out=corpus.made / "packed/pair", seq_len=LENGTH, domain="pair", algorithm=algorithm, pad_id=0,
        selection=corpus.made / "kept" if corpus.dice.random() < 0.5 else None,
    )  # fmt: skip
    corpus.pack(
        trove, out=corpus.origin / "packed/trove", seq_len=LENGTH, domain="trove", algorithm="best-fit", pad_id=0
    )
    streams = [
        {"name": "pair", "remote": "@pair/pair.idx", "packing": "#packed/pair"},
        {"name": "trove", "remote": "@trove", "packing": "@packed/trove"},
    ]
    dataset = {"mixer": "ado"} if ado else {"num_canonical_nodes": 2}
    loader = {"documents": documents}
    return Scenario(name=name, streams=streams, dataset=dataset, loader=loader, worlds=[1] if ado else [1, 2], **TOKENS)


def _concat(corpus: Corpus) -> Scenario:
    corpus.pair("pair", 4000)
    corpus.parquet("parquet", 2400)
    streams = [
        {"name": "pair", "remote": "@pair/pair.idx", "packing": "concat", "seq_len": LENGTH},
        {"name": "parquet", "remote": "@parquet", "packing": "concat", "seq_len": LENGTH},
    ]
    return Scenario(name="packing-concat", streams=streams, loader={"documents": True}, **TOKENS)


# --- other orders ---------------------------------------------------------------------------------------------------


def _mosaic(corpus: Corpus) -> Scenario:
    shuffle = {"shuffle_algo": corpus.dice.choice(("py1e", "py1br", "py1s", "py2s", "naive"))}
    # An epoch in whole batches: mosaic pads the last one to the number of ranks, and so has other rows for each.
    dataset = {"order": "mosaic", "num_canonical_nodes": corpus.dice.choice((1, 2)), "epoch_size": 8 * 1200, **shuffle}
    return Scenario(name="order-mosaic", streams=corpus.three(), dataset=dataset, worlds=[1, 2], in_slices=False)


def _megatron(corpus: Corpus) -> Scenario:
    for name in ("pair", "other"):
        corpus.pair(name, 3000)
    streams = [
        {"name": name, "remote": f"@{name}/{name}.idx", "seq_len": LENGTH, "overlap": 1, "proportion": share}
        for name, share in (("pair", 0.7), ("other", 0.3))
    ]
    dataset = {"order": "megatron", "epoch_size": 8 * 6000}
    return Scenario(name="order-megatron", streams=streams, dataset=dataset, in_slices=False, **TOKENS)


# --- faces ----------------------------------------------------------------------------------------------------------


def _face(corpus: Corpus, *, face: str, **options: Any) -> Scenario:
    streams = corpus.three()
    dataset = {"num_canonical_nodes": corpus.dice.choice((1, 2))}
    return Scenario(**{"name": f"face-{face}", "streams": streams, "dataset": dataset, "face": face} | options)


def _trainer(corpus: Corpus, *, face: str) -> Scenario:
    streams = corpus.three(width=32, words=4096, shard=1 << 14)
    dataset = {"drop_last": True, "shuffle_block_size": 500}
    return Scenario(
        name=f"trainer-{face}", streams=streams, dataset=dataset, face=face, worlds=[1], columns=["tokens"], memory=1500
    )


READING: dict[str, Make] = {
    "mds": partial(_mds, name="mds"),
    "mds-together": partial(_mds, name="mds-together", together=True, worlds=[2, 4]),
    "schedule-skip": _schedule,
    "ado": partial(_ado, name="ado", together=False),
    "ado-together": partial(_ado, name="ado-together", together=True),
    "ado-streaming": partial(_ado, name="ado-streaming", together=False, face="streaming", workers=(1, 2)),
    "quarantine": partial(_quarantine, name="quarantine"),
    "quarantine-together": partial(_quarantine, name="quarantine-together", together=True, ado=True),
    "selection": partial(_selection, name="selection", place="#"),
    "selection-in-store": partial(_selection, name="selection-in-store", place="@"),
    "selection-after-shards-left": _selection_of_changed,
    "selection-changed-in-mid-run": _selection_in_mid_run,
    "buckets": partial(_buckets, name="buckets", ado=False),
    "buckets-ado": partial(_buckets, name="buckets-ado", ado=True),
    "packing": partial(_packing, name="packing", documents=True),
    "packing-ado": partial(_packing, name="packing-ado", documents=False, ado=True),
    "packing-concat": _concat,
    "tokens-megatron": partial(_rows, name="tokens-megatron", kinds=("pair",)),
    "tokens-datatrove-olmo": partial(_rows, name="tokens-datatrove-olmo", kinds=("trove", "olmo")),
    "tokens-parquet-arrow": partial(_rows, name="tokens-parquet-arrow", kinds=("parquet", "arrow")),
    "tokens-documents": partial(
        _rows, name="tokens-documents", kinds=("pair", "parquet"), loader={"documents": True, "labels": "shifted"}
    ),
    "order-mosaic": _mosaic,
    "order-megatron": _megatron,
    "face-streaming": partial(_face, face="streaming", workers=[0, 1, 2]),
    "face-dataloader": partial(_face, face="dataloader", workers=[0, 2], columns=["tokens"]),
    "face-stateful": partial(_face, face="stateful", worlds=[1], workers=[2], columns=["tokens"]),
    "trainer-hf": partial(_trainer, face="hf"),
    "trainer-lightning": partial(_trainer, face="lightning"),
}
"""Scenarios that read."""

READING |= {
    name: _with_parts(make)
    for name, make in READING.items()
    if name.startswith(("packing", "tokens", "order-megatron"))
}
