"""Words that a text may spell, such as special tokens."""

import re
from functools import lru_cache


@lru_cache(maxsize=8)
def pattern_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of any of these words, the longest first."""
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))
