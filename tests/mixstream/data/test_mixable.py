"""Streams that cannot mix are refused by domain, before anything is read; what can mix has one dtype in every batch."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.data.mixable import refuse_unstackable
from mixstream.errors import ConfigError


def write(out, encodings, *, rows=8, shape=(4,), metadata=None):
    def value(encoding, row):
        if encoding.startswith("ndarray"):
            dtype = encoding.split(":")[1] if ":" in encoding else "uint16"
            given = encoding.split(":")[2:]
            return np.full([int(n) for n in given[0].split(",")] if given else shape, row, dtype)
        return {"str": "x", "bytes": b"x", "float32": np.float32(1), "float64": 1.0, "json": {"a": row}}.get(
            encoding, row
        )

    with ms.MDSWriter(out=out, columns=encodings, metadata=metadata) as writer:
        for row in range(rows):
            writer.write({name: value(encoding, row) for name, encoding in encodings.items()})


def pair(tmp_path, web, code, **options):
    write(tmp_path / "web", web)
    write(tmp_path / "code", code)
    streams = [ms.Stream(remote=str(tmp_path / name)) for name in ("web", "code")]
    return lambda kind=ms.StreamingDataset, **more: kind(streams=streams, batch_size=4, shuffle=True, **options, **more)


@pytest.mark.parametrize(
    ("web", "code", "fact"),
    [
        ({"t": "ndarray:uint16:16"}, {"t": "ndarray:uint16:32"}, "16.*'code'|'code'.*16"),
        ({"t": "ndarray:uint16:16"}, {"t": "ndarray:uint16:4,4"}, "uint16:4,4"),
        ({"t": "ndarray:uint16:16"}, {"t": "ndarray:float32:16"}, "float32"),
        ({"t": "ndarray:int64:4"}, {"t": "ndarray:uint64:4"}, "no integer type holds"),
        ({"t": "ndarray:uint16"}, {"t": "ndarray:float32:4"}, "float32"),
        ({"t": "ndarray:uint16:4"}, {"t": "int"}, "'t' is"),
        ({"t": "int"}, {"t": "float64"}, "'t' is"),
        ({"t": "str"}, {"t": "bytes"}, "'t' is"),
        ({"t": "str"}, {"t": "int"}, "'t' is"),
        ({"t": "int"}, {"t": "int", "lang": "str"}, r"different columns: .*lang, t"),
        ({"t": "int"}, {"u": "int"}, "different columns"),
    ],
)
def test_what_does_not_stack_is_refused_by_domain(tmp_path, web, code, fact):
    made = pair(tmp_path, web, code)
    with pytest.raises(ConfigError, match=rf"(?s)(?=.*web)(?=.*code).*({fact}).*mixed_rows=True"):
        made()
    (tmp_path / "web/shard.00000.mds").unlink()  # nothing was read
    made(mixed_rows=True)

    class Own(ms.StreamingDataset):
        def get_item(self, sample_id, retry=7):
            return super().get_item(sample_id)

    made(Own)


@pytest.mark.parametrize(
    ("web", "code", "dtype"),
    [
        ({"t": "ndarray:uint16:4"}, {"t": "ndarray:int32:4"}, torch.int32),
        ({"t": "ndarray:uint8:4"}, {"t": "ndarray:int16"}, torch.int16),
        ({"t": "ndarray:float16:4"}, {"t": "ndarray:float64:4"}, torch.float64),
        ({"t": "uint8"}, {"t": "int"}, torch.int64),
    ],
)
def test_widths_of_numbers_may_differ_and_every_batch_has_one_dtype(tmp_path, web, code, dtype):
    made = pair(tmp_path, web, code)
    found = {batch["t"].dtype for batch in DataLoader(made(), batch_size=4)}
    assert found == {dtype}
    with ms.Loader(made(), widen=False) as loader:
        assert {batch["t"].dtype for batch in islice(loader, 4)} == {dtype}


def test_a_shape_that_only_some_indexes_say_is_no_difference(tmp_path):
    with ms.Loader(pair(tmp_path, {"t": "ndarray:uint16:4"}, {"t": "ndarray:uint16"})()) as loader:
        assert {batch["t"].shape for batch in islice(loader, 4)} == {(4, 4)}


def test_lengths_that_no_index_says_are_an_error_at_the_first_batch_with_both(tmp_path):
    write(tmp_path / "web", {"t": "ndarray:uint16"}, shape=(4,))
    write(tmp_path / "code", {"t": "ndarray:uint16"}, shape=(5,))
    streams = [ms.Stream(remote=str(tmp_path / name)) for name in ("web", "code")]
    dataset = ms.StreamingDataset(streams=streams, batch_size=4, shuffle=True)
    with ms.Loader(dataset) as loader, pytest.raises(ConfigError, match=r"(?=.*'web')(?=.*'code').*shape \(\d,\)"):
        list(loader)
    with ms.Loader(dataset, collate_fn=lambda rows: {"n": torch.tensor([len(row["t"]) for row in rows])}) as loader:
        assert {n for batch in islice(loader, 4) for n in batch["n"].tolist()} == {4, 5}


def tokenizer(hash_, eos=0):
    return {"mixstream": {"tokenizer": {"name": f"/x/{hash_}.json", "vocab_size": 9, "eos": eos, "hash": hash_}}}


def test_tokens_of_different_tokenizers_are_refused(tmp_path):
    columns = {"tokens": "ndarray:uint16:4"}
    write(tmp_path / "web", columns, metadata=tokenizer("aaaa"))
    write(tmp_path / "code", columns, metadata=tokenizer("bbbb"))
    write(tmp_path / "more", columns, metadata=tokenizer("aaaa"))
    write(tmp_path / "plain", columns)

    def dataset(*names, **options):
        streams = [ms.Stream(remote=str(tmp_path / name)) for name in names]
        return ms.StreamingDataset(streams=streams, batch_size=4, **options)

    dataset("web", "more", "plain")
    with pytest.raises(ConfigError, match=r"different tokenizers: .*'code'.*bbbb.*one tokenizer.*mixed_rows=True"):
        dataset("web", "code")
    dataset("web", "code", mixed_rows=True)
    write(tmp_path / "eos", columns, metadata=tokenizer("aaaa", eos=1))
    with pytest.raises(ConfigError, match="different tokenizers"):
        dataset("web", "eos")
    index = json.loads((tmp_path / "web/index.json").read_bytes())
    (tmp_path / "web/index.json").write_text(json.dumps({**index, "mixstream": {"tokenizer": "a name"}}))
    dataset("web", "code")


def test_values_of_different_kinds_that_no_index_says_are_refused_by_name():
    for one, other, fact in (
        ({}, "text", "a mapping .*text"),
        (1, b"1", "a number .*bytes"),
        ([1], 1, "a list .*a num"),
    ):
        with pytest.raises(ConfigError, match=f"column 'x' is {fact}.* in a row of 'code'"):
            refuse_unstackable([{"x": one}, {"x": other}], ["web", "code"])
    refuse_unstackable([{"x": 1}, {"x": np.float32(2)}, {"x": True}], ["web", "code", "code"])
