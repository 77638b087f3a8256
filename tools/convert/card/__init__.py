"""The data card of an output: what its documents are like, for people who did not convert them.

statistics.py   of the documents of a part, and of all parts     lengths.py, duplicates.py
compose.py      statistics, counts and recipe → cards            (their format: shared/cards.py)
written.py      OUT/card.json and OUT/tokenizer/

"""

from .compose import compose_card, describe_dataset, sources_of
from .statistics import PartStatistics, Statistics, TextFacts, merge

__all__ = [
    "PartStatistics",
    "Statistics",
    "TextFacts",
    "compose_card",
    "describe_dataset",
    "merge",
    "sources_of",
]
