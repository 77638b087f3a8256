"""Encoders and decoders in directories that Hugging Face's `transformers` saved, read from local disk only.

Rules: no code of the directory runs (`trust_remote_code=False`), no weights are unpickled (safetensors only), nothing
is downloaded. Texts are sorted by length into batches of a bounded number of tokens; padding is masked, so an embedding
depends on the other texts only as far as the order of floating-point sums in a matrix product does.

Shape suffixes: B texts of a batch, D dimensions, N texts, T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mixstream.errors import ConfigError
from mixstream.selection.embedders.files import load_json, load_tokenizer
from mixstream.selection.embedders.unit import Embedded, unit_rows

Pool = Literal["mean", "last", "cls"]
Precision = Literal["float32", "bfloat16"]
DEFAULT_TOKENS = 512
# These number their positions from the id of the padding token on, so the last ones are not usable.
_POSITIONS_AFTER_PADDING = {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta"}
_POOLS: dict[str, Pool] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}


class Encoder:
    """A `transformers` model in a directory. See `Embedder`.

    Args:
        directory: with config.json, model.safetensors and tokenizer.json.
        pool: which hidden states of the last layer are the text's: the mean over its tokens, its last, or its first.
        max_tokens: tokens of a text that count, special ones among them.
        device: as torch names it ("cpu", "cuda", "cuda:1").
        batch_tokens: maximum of rows times length of a batch; a longer text is a batch of its own.
        precision: dtype of weights and activations; pooling is in float32.

    Raises:
        ConfigError: a file is missing or of another kind, or a package is not installed.
    """

    def __init__(
        self, directory: Path, *, pool: Pool, max_tokens: int, device: str, batch_tokens: int, precision: Precision
    ) -> None:
        import torch

        self._torch, self._pool, self._device, self._batch_tokens = torch, pool, torch.device(device), batch_tokens
        self._tokenizer = load_tokenizer(directory)
        self._tokenizer.enable_truncation(max_tokens)
        self._model = _load(directory).to(device=self._device, dtype=getattr(torch, precision)).eval()
        self.dimensions: int = self._model.config.hidden_size
        vocabulary = self._model.get_input_embeddings().num_embeddings
        if (size := self._tokenizer.get_vocab_size(with_added_tokens=True)) > vocabulary:
            raise ConfigError(
                f"{directory}: the tokenizer has {size} tokens and the model {vocabulary}; tokenizer.json belongs to "
                "another model: copy both again"
            )

    def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder`. A text without tokens, apart from special ones, has failed."""
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        tokens_N = np.array([_content(each) for each in encoded], dtype=np.int64)
        vectors_ND = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        ids = [each.ids for each in encoded]
        for batch in batches([len(each) if own else 0 for each, own in zip(ids, tokens_N)], self._batch_tokens):
            vectors_ND[batch] = self._forward([ids[at] for at in batch])
        unit_ND, failed_N = unit_rows(vectors_ND)
        return Embedded(unit_ND=unit_ND, failed_N=failed_N, tokens_N=tokens_N)

    def _forward(self, ids: list[list[int]]) -> np.ndarray:
        """Return the pooled hidden states of a batch, float32 [B, D]."""
        torch = self._torch
        length_B = torch.tensor([len(each) for each in ids])
        ids_BT = torch.zeros(len(ids), int(length_B.max()), dtype=torch.int64)
        for row, each in enumerate(ids):
            ids_BT[row, : len(each)] = torch.tensor(each)
        mask_BT = (torch.arange(ids_BT.shape[1]) < length_B[:, None]).to(self._device)
        with torch.inference_mode():
            output = self._model(input_ids=ids_BT.to(self._device), attention_mask=mask_BT.to(torch.int64))
            state_BTD = output.last_hidden_state.float()
            if self._pool == "cls":
                pooled_BD = state_BTD[:, 0]
            elif self._pool == "last":
                pooled_BD = state_BTD[torch.arange(len(ids)), length_B - 1]
            else:
                kept_BTD = state_BTD * mask_BT[:, :, None]
                pooled_BD = kept_BTD.sum(dim=1) / length_B.to(self._device)[:, None]
            return pooled_BD.cpu().numpy()


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the positions of texts that form a batch: longest first, rows times length at most `most`.

    Texts of length 0 are left out.

    >>> list(batches([3, 0, 5, 4, 1], most=10))
    [[2, 3], [0, 4]]
    """
    batch: list[int] = []
    longest = 0
    for at in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        if not lengths[at]:
            break
        if batch and longest * (len(batch) + 1) > most:
            yield batch
            batch = []
        if not batch:
            longest = lengths[at]
        batch.append(at)
    if batch:
        yield batch


def pool_of(directory: Path) -> Pool:
    """Return how a directory of sentence-transformers says that hidden states are pooled; `mean` if it does not say.

    Raises:
        ConfigError: it says something that is not supported here.
    """
    said = load_json(directory / "1_Pooling" / "config.json")
    modes = [name for name, value in said.items() if name.startswith("pooling_mode") and value is True]
    if not modes:
        return "mean"
    if len(modes) == 1 and modes[0] in _POOLS:
        return _POOLS[modes[0]]
    raise ConfigError(
        f"{directory} pools with {', '.join(modes)}: give --pool mean, last or cls for the nearest of them"
    )


def tokens_limit(directory: Path) -> int | None:
    """Return how many tokens the model can take, as its files say; None if they do not."""
    config = load_json(directory / "config.json")
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(positions, int) and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        positions -= config.get("pad_token_id", 1) + 1
    said = [
        positions,
        load_json(directory / "tokenizer_config.json").get("model_max_length"),
        load_json(directory / "sentence_bert_config.json").get("max_seq_length"),
    ]
    known = [value for value in said if isinstance(value, int) and 0 < value < 1 << 30]  # tokenizers say 1e30 for none
    return min(known, default=None)


def _content(encoded: Any) -> int:
    """Return the tokens of a text without special ones, also those beyond the cut."""
    return sum(len(each.ids) - sum(each.special_tokens_mask) for each in (encoded, *encoded.overflowing))


def _load(directory: Path) -> Any:
    try:
        from transformers.models.auto.modeling_auto import AutoModel
        from transformers.utils import logging
    except ModuleNotFoundError:
        raise ConfigError(
            f"{directory}: the package `transformers` is not installed. Run: pip install transformers"
        ) from None
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model = AutoModel.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except Exception as error:  # OSError, ValueError, KeyError, and errors of safetensors and huggingface_hub
        raise ConfigError(
            f"{directory}: `transformers` cannot load the model there: {error}. It has to have config.json and "
            "model.safetensors, and an architecture that transformers knows itself"
        ) from error
    model.config.use_cache = False  # a decoder would keep keys and values that nothing reads
    return model.get_encoder() if model.config.is_encoder_decoder else model
