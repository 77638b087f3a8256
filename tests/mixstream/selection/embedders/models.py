"""Tiny models on disk, with random weights: what tests of embedders read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "cat", "dog", "##s", "runs", "fast")


def write_tokenizer(directory: Path, *, special: bool) -> None:
    """Write a WordPiece tokenizer.json of `WORDS`; with `special` tokens around each text, as BERT has them."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    tokenizer = tokenizers.Tokenizer(models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.enable_truncation(4)  # files of models often carry these, and they must not count
    tokenizer.enable_padding(length=9)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))


def write_static(directory: Path, *, dimensions: int = 6, mapped: bool = False, rows: int = len(WORDS)) -> Path:
    """Write a static model; with `mapped`, as a quantised one: int8 vectors, a mapping and weights."""
    from safetensors.numpy import save_file

    write_tokenizer(directory, special=False)
    rng = np.random.default_rng(5)
    if mapped:
        tensors = {
            "embeddings": rng.integers(-120, 120, (5, dimensions)).astype(np.int8),
            "mapping": rng.integers(0, 5, rows),
            "weights": rng.random(rows).astype(np.float32) + 0.1,
        }
    else:
        tensors = {"embeddings": rng.standard_normal((rows, dimensions)).astype(np.float32)}
    save_file(tensors, str(directory / "model.safetensors"))
    (directory / "config.json").write_text('{"model_type": "model2vec", "normalize": true}')
    return directory


def write_encoder(directory: Path, *, positions: int = 32) -> Path:
    """Write a random BERT of 2 layers and 16 dimensions."""
    import torch
    import transformers

    write_tokenizer(directory, special=True)
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=positions,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(directory)
    return directory


def write_decoder(directory: Path) -> Path:
    """Write a random GPT-2 of 1 layer and 8 dimensions, without special tokens."""
    import torch
    import transformers

    write_tokenizer(directory, special=False)
    torch.manual_seed(4)
    config = transformers.GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=2, n_positions=32)
    transformers.GPT2Model(config).save_pretrained(directory)
    return directory
