"""Transformers in directories: pooling, padding, cutting, and what is refused. The weights are random."""

import json
import shutil

import numpy as np
import pytest

from mixstream.errors import ConfigError
from mixstream.selection.embedders import EmbedderSpec
from mixstream.selection.embedders.encoder import batches

TEXTS = ["red", "the red dog runs", "", "cats dogs cats", "green blue red cat dog runs fast"]


def embed(directory, texts, **options):
    return EmbedderSpec.parse(str(directory), device="cpu", **options).load().embed(texts)


def hidden(directory, ids):
    """Hidden states of one text, computed alone."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(directory).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("pool", "of"), [("mean", lambda h: h.mean(axis=0)), ("last", lambda h: h[-1]), ("cls", lambda h: h[0])]
)
def test_pooling_is_what_it_says_in_a_padded_batch(encoder_directory, pool, of) -> None:
    found = embed(encoder_directory, TEXTS, pool=pool)
    ids = {0: [2, 4, 3], 3: [2, 7, 9, 8, 9, 7, 9, 3]}  # [CLS] red [SEP]; [CLS] cat ##s dog ##s cat ##s [SEP]
    for row, each in ids.items():
        assert np.allclose(found.unit_ND[row], unit(of(hidden(encoder_directory, each))), atol=1e-6)
    assert found.failed_N.tolist() == [False, False, True, False, False]
    assert found.tokens_N.tolist() == [1, 4, 0, 6, 7]


def test_an_embedding_does_not_depend_on_the_batch(encoder_directory) -> None:
    together = embed(encoder_directory, TEXTS).unit_ND
    assert np.allclose(together, embed(encoder_directory, TEXTS, batch_tokens=1).unit_ND, atol=1e-6)
    backwards = embed(encoder_directory, TEXTS[::-1]).unit_ND[::-1]
    assert together.tobytes() == np.ascontiguousarray(backwards).tobytes()  # equal batches: to the last bit


def test_a_long_text_is_cut_and_keeps_its_special_tokens(encoder_directory) -> None:
    found = embed(encoder_directory, ["red green blue " * 200], max_tokens=5)
    assert np.allclose(found.unit_ND[0], unit(hidden(encoder_directory, [2, 4, 5, 6, 3]).mean(axis=0)), atol=1e-6)
    assert found.tokens_N.tolist() == [600]


def test_a_decoder_pools_its_last_token(decoder_directory) -> None:
    found = embed(decoder_directory, ["red green", "cat", "blue dog runs fast", ""], pool="last")
    assert np.allclose(found.unit_ND[0], unit(hidden(decoder_directory, [4, 5])[-1]), atol=1e-6)
    assert np.allclose(found.unit_ND[1], unit(hidden(decoder_directory, [7])[-1]), atol=1e-6)
    assert found.failed_N.tolist() == [False, False, False, True]
    assert EmbedderSpec.parse(str(decoder_directory), device="cpu").dimensions() == 8


def test_bfloat16_is_near(encoder_directory) -> None:
    exact, rough = embed(encoder_directory, TEXTS), embed(encoder_directory, TEXTS, precision="bfloat16")
    cosines = (exact.unit_ND * rough.unit_ND).sum(axis=1)[~exact.failed_N]
    assert (cosines > 0.999).all()
    assert (cosines < 1.0 - 1e-7).any()


def test_limits_and_pool_are_read_from_the_directory(encoder_directory, tmp_path) -> None:
    spec = EmbedderSpec.parse(str(encoder_directory), device="cpu")
    assert (spec.max_tokens, spec.pool, spec.dimensions()) == (32, "mean", 16)
    with pytest.raises(ConfigError, match="--max-tokens 33: give 1 to 32"):
        EmbedderSpec.parse(str(encoder_directory), max_tokens=33)
    copied = shutil.copytree(encoder_directory, tmp_path / "copy")
    (copied / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    (copied / "1_Pooling").mkdir()
    (copied / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true, "include_prompt": true}')
    spec = EmbedderSpec.parse(str(copied), device="cpu")
    assert (spec.max_tokens, spec.pool) == (20, "cls")
    (copied / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ConfigError, match="give --pool mean, last or cls"):
        EmbedderSpec.parse(str(copied), device="cpu")
    assert EmbedderSpec.parse(str(copied), device="cpu", pool="mean").pool == "mean"


def test_the_last_usable_position(decoder_directory, tmp_path) -> None:
    assert EmbedderSpec.parse(str(decoder_directory), device="cpu").max_tokens == 32
    assert embed(decoder_directory, ["red " * 40], pool="last").tokens_N.tolist() == [40]
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(roberta))
    assert EmbedderSpec.parse(str(tmp_path), device="cpu").max_tokens == 512
    with pytest.raises(ConfigError, match="give 1 to 512"):
        EmbedderSpec.parse(str(tmp_path), device="cpu", max_tokens=513)


def test_code_and_pickles_of_a_directory_are_not_used(encoder_directory, tmp_path) -> None:
    import torch

    hostile = shutil.copytree(encoder_directory, tmp_path / "hostile")
    (hostile / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((hostile / "config.json").read_text())
    odd = {**config, "model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    (hostile / "config.json").write_text(json.dumps(odd))
    with pytest.raises(ConfigError, match="cannot load the model"):
        embed(hostile, TEXTS)
    (hostile / "config.json").write_text(json.dumps(config))
    (hostile / "model.safetensors").unlink()
    torch.save({}, hostile / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"cannot load the model|model\.safetensors"):
        embed(hostile, TEXTS)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_of_another_model_is_refused(encoder_directory, tmp_path) -> None:
    wrong = shutil.copytree(encoder_directory, tmp_path / "wrong")
    document = json.loads((wrong / "tokenizer.json").read_text())
    document["model"]["vocab"]["horse"] = 12
    (wrong / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="the tokenizer has 13 tokens and the model 12"):
        embed(wrong, TEXTS)


def test_batches_are_bounded_and_complete() -> None:
    lengths = [3, 0, 5, 4, 1, 9, 5]
    found = list(batches(lengths, 10))
    assert found == [[5], [2, 6], [3, 0], [4]]
    assert sorted(at for batch in found for at in batch) == [0, 2, 3, 4, 5, 6]
    assert list(batches([], 10)) == []
