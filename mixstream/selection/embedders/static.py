"""Static models: the embedding of a text is the weighted mean of one vector per token. No network, no GPU, very fast.

The format is that of model2vec (https://github.com/MinishLab/model2vec): `model.safetensors` has `embeddings` [V, D],
and optionally `mapping` [T] (token -> row of embeddings) and `weights` [T]; `tokenizer.json` beside it. Differences
from model2vec: a text is cut after `max_tokens` tokens only, not also by characters, and the sum is in float32 for all
dtypes of weights. A text of unknown tokens only has no embedding.

Shape suffixes: D dimensions, N texts, T tokens of all texts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection.embedders.files import load_tensors, load_tokenizer
from mixstream.selection.embedders.unit import Embedded, unit_rows

_BLOCK_TOKENS = 1 << 16


class StaticModel:
    """A static model in a directory. See `Embedder`.

    Args:
        directory: with model.safetensors and tokenizer.json.
        max_tokens: tokens of a text that count.

    Raises:
        ConfigError: a file is missing or does not fit the others, or a package is not installed.
    """

    def __init__(self, directory: Path, *, max_tokens: int) -> None:
        tensors = load_tensors(directory / "model.safetensors", ("embeddings", "mapping", "weights"))
        self._tokenizer = load_tokenizer(directory)
        self._max_tokens = max_tokens
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._vectors: NDArray = tensors["embeddings"]
        self._row_of: NDArray = tensors["mapping"] if "mapping" in tensors else np.arange(len(self._vectors))
        weights = tensors["weights"] if "weights" in tensors else np.ones(len(self._row_of))
        self._weight_of: NDArray[np.float32] = weights.astype(np.float32)
        known = min(len(self._row_of), len(self._weight_of))
        in_range = self._row_of.min(initial=0) >= 0 and self._row_of.max(initial=0) < len(self._vectors)
        if self._vectors.ndim != 2 or known < size or not in_range:
            raise ConfigError(
                f"{directory}: the tokenizer has {size} tokens, but model.safetensors has embeddings of shape "
                f"{self._vectors.shape} for {known} of them; the two files belong to different models: copy both again"
            )
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self._unknown = self._tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None

    @property
    def dimensions(self) -> int:
        """See `Embedder`."""
        return self._vectors.shape[1]

    def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder`. An embedding does not depend on the other texts, to the last bit."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(each.ids, dtype=np.int64) for each in encoded]
        tokens_N = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        if self._unknown is not None:
            ids = [each[each != self._unknown] for each in ids]
        ids = [each[: self._max_tokens] for each in ids]
        sums_ND = np.zeros((len(ids), self.dimensions), dtype=np.float32)
        for first, end in _blocks([len(each) for each in ids]):
            self._add(ids[first:end], sums_ND[first:end])
        unit_ND, failed_N = unit_rows(sums_ND)  # the mean has the direction of the sum
        return Embedded(unit_ND=unit_ND, failed_N=failed_N, tokens_N=tokens_N)

    def _add(self, ids: list[np.ndarray], sums_ND: np.ndarray) -> None:
        """Write the weighted sums of the tokens of some texts into `sums_ND`."""
        length_N = np.array([len(each) for each in ids])
        filled = np.flatnonzero(length_N)
        if not filled.size:
            return
        id_T = np.concatenate([ids[at] for at in filled])
        vectors_TD = self._vectors[self._row_of[id_T]].astype(np.float32)
        vectors_TD *= self._weight_of[id_T][:, None]
        begin = np.cumsum(length_N[filled]) - length_N[filled]
        sums_ND[filled] = np.add.reduceat(vectors_TD, begin, axis=0)


def _blocks(lengths: list[int]) -> list[tuple[int, int]]:
    """Return ranges of texts of about `_BLOCK_TOKENS` tokens each, so that memory is bounded."""
    ends = np.cumsum(lengths) // _BLOCK_TOKENS
    borders = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(lengths)] if lengths else []
    return [(first, end) for first, end in pairwise(borders) if first < end]
