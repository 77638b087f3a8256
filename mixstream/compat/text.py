"""`streaming.text`: the datasets of C4, The Pile and English Wikipedia, as that package's converters store them."""

from importlib import import_module
from typing import Any

import numpy as np

from mixstream.compat.dataset import StreamingDataset
from mixstream.errors import ConfigError

DEFAULTS: dict[str, Any] = {"partition_algo": "orig", "shuffle_algo": "py1s", "shuffle_block_size": 1 << 18}
"""Where these classes, and those of `streaming.vision`, differ from `StreamingDataset`: the order depends on it."""


class _Tokenized(StreamingDataset):
    """Texts, tokenised and cut or padded to one length when they are read.

    Args:
        tokenizer_name: of a tokenizer of transformers.
        max_seq_len: tokens of a sample.
        group_method: "truncate".
        options: as for `StreamingDataset`.
    """

    def __init__(self, *, tokenizer_name: str, max_seq_len: int, group_method: str, **options: Any) -> None:
        if group_method != "truncate":
            raise ConfigError(f"group_method={group_method!r} must be one of 'truncate'")
        super().__init__(**DEFAULTS | options)
        try:
            tokenizers = import_module("transformers").AutoTokenizer
        except ImportError as error:
            raise ConfigError(
                "texts are tokenised by transformers, which is not installed: `pip install transformers`"
            ) from error
        self.tokenizer_name, self.max_seq_len, self.group_method = tokenizer_name, max_seq_len, group_method
        self.tokenizer = tokenizers.from_pretrained(tokenizer_name)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        """Return the tokens of a text, as the tokenizer returns them."""
        text = super().get_item(sample_id, retry)["text"]
        return self.tokenizer(text, truncation=True, padding="max_length", max_length=self.max_seq_len)


class StreamingC4(_Tokenized):
    """C4: a column `text`."""


class StreamingPile(_Tokenized):
    """The Pile: a column `text`."""


class StreamingEnWiki(StreamingDataset):
    """English Wikipedia, prepared for BERT: arrays of tokens, masks and labels, stored as bytes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**DEFAULTS | options)

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """Return `input_ids`, `token_type_ids`, `attention_mask` and `labels` of a sample; -100 where there is none."""
        stored = super().get_item(sample_id, retry)
        found: dict[str, Any] = {
            name: np.frombuffer(value, np.float32 if name == "masked_lm_weights" else np.int32)
            for name, value in stored.items()
        }
        labels = np.full(len(found["input_ids"]), -100)
        labels[found["masked_lm_positions"]] = found["masked_lm_ids"]
        return {
            "input_ids": found["input_ids"].copy(),
            "token_type_ids": found["segment_ids"].copy(),
            "attention_mask": found["input_mask"].copy(),
            "labels": labels,
        }
