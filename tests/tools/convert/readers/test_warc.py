"""WARC and WET: every page once, as text only where a text is known, and all else counted or named."""

import gzip
import io
import zlib

import pytest
import zstandard

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.readers import http_payload, warc_records

fastwarc = pytest.importorskip("fastwarc.warc", reason="pip install fastwarc")
PAGE = "<html><head><title>t</title></head><body><main><p>A page of text, with ä and €.</p></main></body></html>"
UUID = "00000000-0000-4000-8000-000000000001"
KEEP = ("url", "date", "type", "content_type", "status", "uuid")
TEXT = Fields(text="text", id="id", keep=KEEP)
PAGES = Fields(text="text", id="id", keep=KEEP, extract=f"{__name__.rpartition('.')[2]}_extractor:shout")


def record(kind: str, content: bytes, number: int = 0, end: bytes = b"\r\n", **headers: str) -> bytes:
    """A WARC record."""
    lines = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:00000000-0000-4000-8000-{number:012}>",
        "WARC-Date": "2026-01-02T03:04:05Z",
        "WARC-Target-URI": f"https://example.org/{number}",
        "Content-Length": str(len(content)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = b"".join(f"{name}: {value}".encode() + end for name, value in lines.items() if value)
    return b"WARC/1.0" + end + head + end + content + end + end


def response(body: bytes, number: int = 0, status: int = 200, headers: str = "", kind: str = "text/html") -> bytes:
    """A response record."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}\r\n".encode()
    return record("response", head + body, number, Content_Type="application/http; msgtype=response")


WET = [
    record("warcinfo", b"software: x\r\n", Content_Type="application/warc-fields"),
    *(record("conversion", f"text {at} ä\n".encode(), at, Content_Type="text/plain") for at in range(1, 4)),
]
CRAWL = [
    record("warcinfo", b"software: x\r\n"),
    record("request", b"GET / HTTP/1.1\r\n\r\n", 1),
    response(PAGE.encode(), 1, headers="Content-Length: 7\r\n", kind="text/html; charset=utf-8"),
    record("metadata", b"fetchTimeMs: 1\r\n", 1),
    response(b"not here", 2, 404),
    response(b"\xff\xd8\xff", 3, kind="image/jpeg"),
    response("plain ä".encode(), 4, kind="text/plain"),
    record("resource", b"a log", 5, Content_Type="text/plain", WARC_Target_URI="metadata://gnu.org/wget/log"),
]


@pytest.fixture(autouse=True)
def extractor(tmp_path, monkeypatch):
    (tmp_path / "test_warc_extractor.py").write_text(
        "def shout(html):\n    return html.upper() if 'page' in html else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def packed(records: list[bytes], suffix: str) -> bytes:
    """The records as crawlers pack them: each alone."""
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    return b"".join(map(pack, records))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_text_of_a_wet_file(tmp_path, read, suffix):
    path = tmp_path / f"a.warc.wet{suffix}"
    path.write_bytes(packed(WET, suffix))
    found = read(path, TEXT)
    assert (found.formats, found.documents) == ({"warc"}, [f"text {at} ä\n" for at in range(1, 4)])
    assert found.left_out == {"WARC records of type warcinfo": 1}
    assert found.origins[0] == (
        1,
        f"<urn:uuid:{UUID}>",
        ("https://example.org/1", "2026-01-02T03:04:05Z", "conversion", "text/plain", None, UUID),
    )


def test_html_is_no_text_without_an_extractor(tmp_path, read):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(packed(CRAWL, ".gz"))
    with pytest.raises(
        (ConfigError, SourceError), match=r"field 'text' is HTML, not text: --extract resiliparse"
    ) as told:
        read(path, TEXT)
    assert "--text-key" not in str(told.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pages_of_a_crawl(tmp_path, read, suffix):
    path = tmp_path / f"a.warc{suffix}"
    path.write_bytes(packed(CRAWL, suffix))
    found = read(path, PAGES)
    assert found.documents == [PAGE.upper(), "plain ä"]
    assert [each.record for each in found.origins] == [2, 6]
    assert found.left_out == {
        "WARC records of type warcinfo": 1,
        "WARC records of type request": 1,
        "WARC records of type metadata": 1,
        "WARC records about the crawl": 1,
        "responses of other HTTP statuses than 2xx": 1,
        "pages that are neither HTML nor plain text": 1,
    }
    seen = fastwarc.ArchiveIterator(io.BytesIO(path.read_bytes()), parse_http=True)
    responses = [each.reader.read() for each in seen if each.record_type == fastwarc.WarcRecordType.response]
    assert (responses[0].decode().upper(), responses[-1].decode()) == (*found.documents,)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"5;x=y\r\n<p>pa\r\n6\r\nge</p>\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n"),
        (b"<p>page</p>", "Transfer-Encoding: chunked\r\n"),  # the crawler has joined the chunks
        (gzip.compress(b"<p>page</p>", mtime=0), "Content-Encoding: gzip\r\n"),
        (zlib.compress(b"<p>page</p>"), "Content-Encoding: deflate\r\n"),
        (zstandard.compress(b"<p>page</p>"), "Content-Encoding: zstd\r\n"),
        (b"<p>page</p>", "Content-Encoding: gzip\r\n"),  # the crawler has unpacked it
    ],
)
def test_encodings_of_a_payload_are_undone(tmp_path, read, body, headers):
    (tmp_path / "a.warc").write_bytes(response(body, headers=headers))
    assert read(tmp_path / "a.warc", PAGES).documents == ["<P>PAGE</P>"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<p>page ä€</p>".encode(), "text/html"),
        ("<p>page ä€</p>".encode("cp1252"), "text/html"),
        ("<p>page ä€</p>".encode("cp1252"), "text/html; charset=ISO-8859-1"),
        ('<meta charset="windows-1252"><p>page ä€</p>'.encode("cp1252"), "text/html"),
        ("<p>page ä€</p>".encode("utf-8-sig"), "text/html; charset=ISO-8859-1"),
        ("<p>page ä€</p>".encode(), "application/xhtml+xml; charset=no-such-thing"),
        ("\ufeff<p>page ä€</p>".encode("utf-16-le"), "text/html"),
    ],
)
def test_the_encoding_of_a_page_is_found_as_browsers_do(tmp_path, read, body, kind):
    (tmp_path / "a.warc").write_bytes(response(body, kind=kind))
    assert "PAGE Ä€" in read(tmp_path / "a.warc", PAGES).documents[0]


@pytest.mark.parametrize(
    ("content", "fact", "read_before"),
    [
        (packed(WET, "")[:-8], "record 3: the file is cut short: 6 of 10 bytes", 2),
        (packed(WET[:2], "") + WET[2][:30], "record 2: the file is cut short in its headers", 1),
        (WET[1] + record("conversion", b"x" * 50, Content_Length="7"), "record 1: its Content-Length, 7, is not", 1),
        (WET[1] + record("conversion", b"x", Content_Length="-7"), "its Content-Length is '-7'", 1),
        (WET[1] + record("conversion", b"x", Content_Length=str(1 << 60)), "record 1: the file is cut short", 1),
        (WET[1] + b"WARC/1.0\r\n" + b"A: b\r\n" * 5000, "more than 4096 headers", 1),
        (WET[1] + b"garbage\n", "record 1: it does not begin as a WARC record", 1),
    ],
)
def test_a_file_that_is_damaged_is_an_error_and_the_rest_is_lost(tmp_path, read, content, fact, read_before):
    (tmp_path / "a.wet").write_bytes(content)
    found = read(tmp_path / "a.wet", TEXT, skip=True)
    assert len(found.documents) == read_before
    assert fact in found.bad[0]
    (tmp_path / "b.wet.gz").write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(SourceError, match=r"cut short|begin as|Content-Length|more than"):
        read(tmp_path / "b.wet.gz", TEXT)


@pytest.mark.parametrize(
    ("bad", "fact"),
    [
        (record("conversion", b"a\xff", Content_Type="text/plain"), "not UTF-8: byte 1 of its text"),
        (record("response", b"no http", Content_Type="application/http"), "no HTTP response"),
        (response(b"5\r\nab", headers="Transfer-Encoding: chunked\r\n"), "its chunks are cut short"),
        (record("conversion", b"x" * 3000, Content_Type="text/plain"), "it is larger than 2.0 KiB"),
        (
            response(gzip.compress(bytes(9000), mtime=0), headers="Content-Encoding: gzip\r\n"),
            "its payload is larger than 2.0 KiB",
        ),
    ],
)
def test_a_bad_record_is_named_and_the_next_is_read(tmp_path, read, monkeypatch, bad, fact):
    for module in (http_payload, warc_records):
        monkeypatch.setattr(module, "MAX_RECORD", 2048)
    monkeypatch.setattr("mixstream_tools.convert.readers.warc.MAX_RECORD", 2048)
    (tmp_path / "a.warc").write_bytes(WET[1] + bad + WET[2])
    found = read(tmp_path / "a.warc", TEXT, skip=True)
    assert found.documents == ["text 1 ä\n", "text 2 ä\n"]
    assert "a.warc, record 1 (https://example.org/0): " in found.bad[0]
    assert fact in found.bad[0]


def test_lines_may_end_as_on_unix(tmp_path, read):
    (tmp_path / "a.wet").write_bytes(record("conversion", b"x", end=b"\n", Content_Type="text/plain") * 2)
    assert read(tmp_path / "a.wet", TEXT).documents == ["x", "x"]


def test_the_domain_of_a_page_is_a_field(tmp_path, read):
    records = [
        record("conversion", b"x", Content_Type="text/plain", WARC_Identified_Content_Language=each)
        for each in ("deu", "eng")
    ]
    (tmp_path / "a.wet").write_bytes(b"".join(records))
    assert read(tmp_path / "a.wet", Fields(text="text", domain="language")).domains == ["deu", "eng"]
