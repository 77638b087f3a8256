"""What became of rows, and how that is counted."""

import numpy as np
import pytest

from mixstream_tools.demo.selection.judged import Domain, duplicates, examples, twin
from mixstream_tools.demo.selection.planted import Passage


def domain_of(passages, *, distance, unique, kept) -> Domain:
    kept_N = np.array(kept, dtype=bool)
    return Domain(
        passages=passages,
        distance_N=np.array(distance),
        unique_N=np.array(unique, dtype=bool),
        kept_N=kept_N,
        easy_N=~kept_N,
    )


@pytest.fixture
def domain() -> Domain:
    """Two groups of three and two rows, and two rows of real text."""
    groups = [0, 0, 0, 1, 1, None, None]
    kinds = ["text", "copy", "copy", "text", "copy", "text", "text"]
    return domain_of(
        [Passage(text=str(at), kind=kind, group=group) for at, (kind, group) in enumerate(zip(kinds, groups))],
        distance=[0.3, 0.2, 0.1, 0.4, 0.4, 0.9, 0.05],
        unique=[1, 0, 0, 0, 0, 1, 1],
        kept=[1, 0, 0, 0, 0, 0, 0],
    )


def test_fates(domain):
    assert domain.fate_N.tolist() == ["kept", *["duplicate"] * 4, "outlier", "typical"]
    kinds = domain.kinds()
    assert kinds["text"] == {"rows": 4, "duplicate": 1, "outlier": 1, "typical": 1, "kept": 1, "easy_keeps": 3}
    assert kinds["copy"] == {"rows": 3, "duplicate": 3, "outlier": 0, "typical": 0, "kept": 0, "easy_keeps": 3}


def test_a_domain_of_which_nothing_is_kept_has_no_typical_rows():
    found = domain_of([Passage(text="a"), Passage(text="b")], distance=[0.1, 0.2], unique=[1, 0], kept=[0, 0])
    assert found.fate_N.tolist() == ["outlier", "duplicate"]


def test_of_a_group_all_but_one_can_go(domain):
    """Three of the first group's could, two did; of the second both are gone, which counts once."""
    found = duplicates(domain)
    assert (found["could_go"], found["went"], found["dropped"]) == (3, 3, 4)
    assert (found["precision"], found["recall"]) == (0.75, 1.0)
    assert (found["groups"], found["groups_without_any_row_left"]) == (2, 1)


def test_without_groups_there_is_nothing_to_find():
    found = duplicates(domain_of([Passage(text="a")], distance=[0.1], unique=[1], kept=[1]))
    assert found["precision"] is found["recall"] is None


def test_the_twin_is_the_kept_row_with_the_largest_cosine(domain):
    vectors_ND = np.eye(7, dtype=np.float16)
    vectors_ND[1] = [0.6, 0, 0, 0, 0, 0.8, 0]
    assert twin(domain, vectors_ND, 1) == (5, pytest.approx(0.8, abs=1e-3))


def test_examples_begin_with_the_clearest(domain):
    assert examples(domain, "duplicate").tolist() == [2, 1, 3, 4]
    assert examples(domain, "outlier").tolist() == [5]


def test_rows_alone_with_their_prototype(domain):
    assert domain.alone(np.array([0, 0, 0, 1, 1, 2, -1])) == 1


def test_picture_names_every_domain_and_marks_what_was_planted(domain, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib import rc_context

    from mixstream_tools.demo.selection.picture import draw

    with rc_context({"svg.fonttype": "none"}):
        told = draw({"copies": domain}, file=tmp_path / "picture.svg").read_text()
    assert "copies: text" in told
    assert "copies: copy" in told
    assert "dropped: near-duplicate" in told
