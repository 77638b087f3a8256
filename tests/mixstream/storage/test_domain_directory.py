"""Every name has a directory of its own on any file system, and the directory has the name."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.storage import domain_directory, domain_name

NAMES = st.text(st.sampled_from("ab.~- %/#\\:é\u0301\u200b\x00日") | st.characters(), min_size=1, max_size=30)
PLAIN = ["web", "Wikipedia (en)", "PubMed Abstracts", "français", "日本語", "a.b-c_d", "0", "C++", "a~b", "x=1", "web~"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_is_a_directory_stays(name):
    assert domain_directory(name) == domain_name(name) == name


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("C#", "C~23"),
        ("PL/SQL", "PL~2FSQL"),
        (".", "~2E"),
        ("..", "~2E~2E"),
        (".hidden", "~2Ehidden"),
        ('a\\b:c*d?e"f<g>h|i%j', "a~5Cb~3Ac~2Ad~3Fe~22f~3Cg~3Eh~7Ci~25j"),
        ("x. ", "x.~20"),
        ("-x", "~2Dx"),
        ("C~23", "C~7E23"),
        ("NUL", "~4EUL"),
        ("con.txt", "~63on.txt"),
        ("domains.json", "~64omains.json"),
        ("e\u0301", "e~CC~81"),
        ("a\u200bb", "a~E2~80~8Bb"),
        ("a\nb", "a~0Ab"),
    ],
)
def test_other_names_are_written_so_that_they_can_be_read_again(name, directory):
    assert domain_directory(name) == directory
    assert domain_name(directory) == name


@given(name=NAMES)
def test_any_name_comes_back_and_its_directory_is_safe(name):
    directory = domain_directory(name)
    assert len(directory.encode()) <= 200 or domain_name(directory) == name
    assert not re.search(r"""[\x00-\x1f\x7f/\\:*?"<>|#%]|^[. -]|[. ]$""", directory)
    assert unicodedata.normalize("NFC", directory) == directory
    if len(name) < 15:
        assert domain_name(directory) == name


@given(one=NAMES, other=NAMES)
def test_two_names_are_two_directories(one, other):
    assert (domain_directory(one) == domain_directory(other)) == (one == other)


def test_long_names_are_cut_and_stay_apart():
    names = ["x" * 500, "x" * 501, "#" * 300, "ä" * 300, "日" * 200 + "a", "日" * 200 + "b"]
    directories = [domain_directory(name) for name in names]
    assert len(set(directories)) == len(names)
    assert all(len(directory.encode()) <= 200 for directory in directories)
    assert [domain_name(directory) for directory in directories] == directories


def test_no_name_is_no_directory():
    with pytest.raises(ConfigError, match="empty"):
        domain_directory("")
