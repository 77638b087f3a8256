"""CSV and TSV: quotes, line ends and delimiters as written; a bad row is named, and no guess is taken for a row."""

import bz2
import csv
import gzip
import io
import lzma

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.readers import csv as csv_files
from mixstream_tools.convert.sources.sources import find_sources

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
texts = st.text(st.sampled_from(",;\t|\"\r\n'\\ a") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    rows=st.lists(texts, max_size=12),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    table=st.sampled_from([(".csv", ","), (".csv", ";"), (".csv", "|"), (".tsv", "\t")]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    packed=st.sampled_from(list(COMPRESS)),
)
@settings(max_examples=150, deadline=None)
def test_what_a_writer_writes_comes_back(tmp_path_factory, rows, end, table, quoting, packed, read_slices):
    """The writer of Python, and so pandas, quotes only what its own line end holds: returns may stand in fields."""
    quoting = csv.QUOTE_ALL if end == "\r" else quoting
    suffix, delimiter = table
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=end).writerow(["text", "id"])
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows((text, at) for at, text in enumerate(rows))
    path = tmp_path_factory.mktemp("d") / f"a{suffix}{packed}"
    path.write_bytes(COMPRESS[packed](stream.getvalue().encode()))
    found = read_slices(path, fields=Fields(text="text", keep=("id",)))
    assert found == [(at, text, str(at)) for at, text in enumerate(rows) if text]


def test_a_mark_blank_lines_and_a_last_line_without_end(tmp_path, read_slices):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftext,id\r\nx,1\r\n\r\n"y\r\n",2\r\nz,3')
    assert read_slices(path) == [(0, "x"), (2, "y\r\n"), (3, "z")]


@pytest.mark.parametrize("name", ["a.txt", "a", "a.log.gz", "a.data"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_table_shows_through_a_name_that_says_nothing(tmp_path, name, delimiter, read_slices):
    content = 'id,text\n1,"two words, quoted"\n2,more\n'.replace(",", delimiter).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_slices(tmp_path / name) == [(0, f"two words{delimiter} quoted"), (1, "more")]


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        (b"1,x,y", "line 4: 3 fields, and the first row names 2 columns"),
        (b"1", "line 4: 1 fields, and the first row names 2 columns"),
        (b"1,\xff\xfe", "line 4: field 'text' is not UTF-8 (at character 0)"),
    ],
)
@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, fact, suffix, read_slices):
    path = tmp_path / f"a.csv{suffix}"
    path.write_bytes(COMPRESS[suffix](b'id,text\n0,"a\nb"\n' + row + b"\n2,c\n"))
    bad: list[str] = []
    assert read_slices(path, bad=bad) == [(0, "a\nb"), (2, "c")]
    assert bad == [f"{path}, {fact}"]
    with pytest.raises(SourceError, match="line 4"):
        read_slices(path)


@pytest.mark.parametrize(
    ("rest", "fact"),
    [
        (b'1,"open\n2,c\n', "line 4: a quote is not closed"),
        (b'1,"he said "yes""\n2,c\n', "line 4: not CSV: ',' expected after '\"'"),
        (b"1," + b"x" * 3000 + b"\n2,c\n", "line 4: a line of more than"),
        (b'1,"' + b"x\n" * 1500 + b'"\n2,c\n', "line 4: a field of more than"),
    ],
    ids=["open", "unescaped", "long line", "long field"],
)
def test_where_no_end_of_a_row_is_known_the_rest_is_lost_and_not_guessed(
    tmp_path, monkeypatch, rest, fact, read_slices
):
    monkeypatch.setattr(csv_files, "_MOST", 2000)
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n0,"a\nb"\n' + rest)
    bad: list[str] = []
    assert read_slices(path, bad=bad) == [(0, "a\nb")]
    assert len(bad) == 1
    assert bad[0].startswith(f"{path}, {fact}")
    assert bad[0].endswith("the rest of the file is lost")


def refusal(path, **fields) -> str:
    choice = Choice()
    with pytest.raises(ConfigError) as caught:
        find_sources(
            [str(path)], out=path.parent / "o", choice=choice, by_key=False, fields=Fields(text="text", **fields)
        )
    return str(caught.value)


def test_a_file_without_a_first_row_of_names_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1,some text\n2,more text\n")
    assert "no field 'text'; the document has '1', 'some text'" in refusal(tmp_path / "a.csv")


def test_two_columns_of_one_name_are_refused_where_they_are_needed(tmp_path, read_slices):
    path = tmp_path / "a.csv"
    path.write_text("text,k,k\nx,1,2\n")
    assert read_slices(path) == [(0, "x")]
    with pytest.raises(SourceError, match="2 columns are called 'k'"):
        read_slices(path, fields=Fields(text="text", keep=("k",)))


def test_other_encodings_and_html_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("id,text\n1,x\n".encode("utf-16"))
    assert "UTF-16" in refusal(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(gzip.compress(b"id,text\n1,x\n"))
    assert "decompress it" in refusal(tmp_path / "b.csv")
