"""What candidates share with targets: equal to a search by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection import Targets, Words, tokens_as_units
from mixstream.selection.overlap import words_of


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=14),
    st.integers(1, 4),
)
def test_overlap_is_what_a_search_by_hand_finds(targets: list[list[int]], candidate: list[int], n: int) -> None:
    if not any(targets):
        with pytest.raises(ConfigError, match="targets"):
            Targets(map(tokens_as_units, targets), ngram=n)
        return

    def grams(units: list[int]) -> set[tuple[int, ...]]:
        return {tuple(units[at : at + n]) for at in range(len(units) - n + 1)}

    hit = Targets(map(tokens_as_units, targets), ngram=n).search(tokens_as_units(candidate))
    equal = [at for at, target in enumerate(targets) if target == candidate and candidate]
    shares = [at for at, target in enumerate(targets) if grams(target) & grams(candidate)]
    assert (hit is not None) == bool(equal or shares)
    if hit is not None:
        assert hit.exact == bool(equal)
        assert hit.target in (equal or shares)
        units = candidate[hit.at : hit.at + hit.length]
        assert tuple(units) in grams(targets[hit.target]) or units == targets[hit.target]


def test_words_do_not_depend_on_case_and_punctuation() -> None:
    assert words_of("It's THE end.").tolist() == words_of("it s the (end)").tolist()


def test_words_that_were_forgotten_are_the_same_again() -> None:
    words = Words(limit=2)
    assert [words(text).tolist() for text in ("a b c d", "a", "d")] == [
        words_of("a b c d").tolist(),
        words_of("a").tolist(),
        words_of("d").tolist(),
    ]
