"""Which sequences of a file belong to a split, as `--split "969, 30, 1"` of Megatron-LM says.

Source: `parse_and_normalize_split`, `convert_split_vector_to_split_matrix` and
`_build_megatron_dataset_splits` of megatron.core.datasets. Rounding is that of floats there, half to even.
"""

import math
import re
from itertools import accumulate

import numpy as np

from mixstream.arguments import shown
from mixstream.errors import ConfigError

PARTS = ("train", "valid", "test")


def normalised(weights: list[float]) -> list[float]:
    """Return `weights` divided by their sum, in float64, summed as numpy does."""
    weight_K = np.array(weights, dtype=np.float64)
    return (weight_K / np.sum(weight_K)).tolist()


def split_bounds(split: str, part: str) -> tuple[float, float]:
    """Return where a part of the data begins and ends, as fractions of it.

    >>> split_bounds("969, 30, 1", "valid")
    (0.969, 0.999)

    Args:
        split: the weights of train, valid and test; missing ones are 0.
        part: one of them.

    Raises:
        ConfigError: `split` is no such text, or gives the part nothing.
    """
    found = re.findall(r"[.0-9]+", split) if re.fullmatch(r"[\s.0-9,/]*", split) else []
    try:
        weights = [float(number) for number in found]
    except ValueError:
        weights = []
    weights += [0.0] * (len(PARTS) - len(weights))
    if len(weights) != len(PARTS) or not 0 < sum(weights) < math.inf:
        raise ConfigError(
            f'split={shown(split)} has no weights of {", ".join(PARTS)}: write split="969,30,1" as in Megatron'
        )
    ends = list(accumulate(normalised(weights)))
    at = PARTS.index(part)
    begin, end = (ends[at - 1] if at else 0.0), ends[at]
    if end <= begin:
        raise ConfigError(
            f"split={shown(split)} gives the part {part!r} nothing: raise its weight, or read another part"
        )
    return begin, end


def split_sequences(split: str | None, part: str, sequences: int) -> range:
    """Return the sequences of a part of the data; None for `split` is all of them.

    >>> split_sequences("969, 30, 1", "train", 50), split_sequences(None, "train", 50)
    (range(0, 48), range(0, 50))

    Raises:
        ConfigError: there are none.
    """
    if split is None:
        return range(sequences)
    begin, end = (round(bound * float(sequences)) for bound in split_bounds(split, part))
    if begin == end:
        raise ConfigError(
            f"split={shown(split)} gives the part {part!r} none of {sequences} sequences: raise its weight, or leave "
            "out split to read all of them"
        )
    return range(begin, end)
