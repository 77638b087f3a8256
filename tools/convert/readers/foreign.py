"""Formats that hold no documents for convert, and what to do with each of them: one table, and how to recognise them.

Rule: bytes in, a `Foreign` out. Which files are looked at, and what follows, is in sniff.py and sources.py.

A format that is `data` may hold documents, so a file of it is refused, with a way to turn it into documents: leaving it
out silently would lose them. Another one, such as a picture, holds none; in a directory it is skipped and counted.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

_TO = "> documents.jsonl"
_ITSELF = "decompress it, take it out of its archive, or leave out --format: convert reads the file itself"
_MARKUP = "extract the text, one JSON line for each page (packages such as trafilatura and resiliparse do that)"
_RECORDS = "extract its text, one JSON line a record (packages such as warcio, resiliparse and datatrove do that)"
_OFFICE = "pandoc --to plain FILE --output FILE.txt"
_MEDIA = "it holds no text"


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """A format that convert does not read.

    Attributes:
        name: in words.
        way: the command, or the words, that make documents of it; FILE stands for the file.
        data: whether it may hold documents.
        is_text: whether its bytes are text, so that --as-text can take them.
    """

    name: str
    way: str
    data: bool = True
    is_text: bool = False


def _media(name: str) -> Foreign:
    return Foreign(name=name, way=_MEDIA, data=False)


def _source(name: str, way: str) -> Foreign:
    return Foreign(name=name, way=way, is_text=True)


def _unpack(name: str, command: str) -> Foreign:
    return Foreign(name=name, way=f"{command}, then convert DIR")


CSV, TSV = _source("a CSV table", _ITSELF), _source("a table with tabs", _ITSELF)
HTML, XML = _source("HTML", _MARKUP), _source("XML", _MARKUP)
PROGRAM, PICTURE, SOUND = _media("a program"), _media("a picture"), _media("sound or video")
SVG = Foreign(name="a picture", way=_MEDIA, data=False, is_text=True)
NOTEBOOK = _source("a Jupyter notebook", "jupyter nbconvert --to markdown FILE, or --to script")
WARC = _source("a WARC file", _RECORDS)
WAT = _source(
    "a WAT file, which says what is in a crawl and has no texts", "convert the WARC or WET files of the crawl"
)
ARC = _source("an ARC file, from before WARC", "warcio recompress FILE FILE.warc.gz, of the package warcio")
PARQUET, ARROW = Foreign(name="Parquet", way=_ITSELF), Foreign(name="an Arrow table", way=_ITSELF)
OLD_FEATHER = Foreign(
    name="Feather in its first version, from before 2020",
    way="python -c \"import pyarrow.feather as f; f.write_feather(f.read_table('FILE'), 'FILE.arrow')\"",
)
ENCRYPTED = Foreign(name="encrypted Parquet", way="write it without encryption, with the program that has its keys")
TAR = _unpack("a tar archive", "tar -xf FILE -C DIR")
ZIP = _unpack("a zip archive", "--format zip reads its texts; or unzip FILE -d DIR")
OFFICE = Foreign(name="an office document", way=_OFFICE)
PDF = Foreign(name="PDF", way="pdftotext FILE")
POSTSCRIPT = _source("PostScript", "ps2ascii FILE FILE.txt")
RTF = _source("RTF", _OFFICE)
MAIL = _source("a mailbox", "write one JSON line for each message (the module `mailbox` of Python reads it)")
SQLITE = Foreign(name="an SQLite database", way="sqlite3 FILE \"select json_object('text', COLUMN) from TABLE\" " + _TO)  # noqa: S608  # a command to type
PICKLE = Foreign(
    name="a pickle", way="unpickling runs code, so load it yourself if you trust it, and write one JSON line each"
)
ARRAYS = Foreign(name="arrays or a model", way="write token arrays with mixstream.MDSWriter; models hold no text")
SHARD = Foreign(name="a shard", way="it is tokenised already: read its dataset with mixstream.Stream")
TABLE = Foreign(
    name="a table or log of records", way="write one JSON line for each record with the format's own package"
)
POINTER = Foreign(name="a pointer of Git LFS, not the file itself", way="git lfs pull")
UNFINISHED = Foreign(name="an unfinished download", way="finish it, or remove it")
UTF16 = Foreign(name="text in UTF-16 or UTF-32", way="iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8.txt")
BINARY = Foreign(
    name="binary data under the name of a text",
    way="see what it is (`file FILE`) and rename it; if it is UTF-16, iconv -f UTF-16LE -t UTF-8 FILE > FILE.utf8.txt",
)
JSON_SEQUENCE = _source("a JSON text sequence", "tr -d '\\036' < FILE > FILE.json")
JSON_VALUE = _source("JSON, but neither lines nor an array of objects", "write one JSON object a line")
OTHER = _media("binary data")

_PACKED = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x1f\x9d": "Z",
    b"\xff\x06\0\0sNaPpY": "snappy",
}
READABLE = ("gz", "zst", "bz2", "xz")
_SKIPPABLE_ZST = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f; pzstd begins with such a frame

_MAGIC: dict[bytes, Foreign] = {
    b"PAR1": PARQUET,
    b"PARE": ENCRYPTED,
    b"ARROW1\0\0": ARROW,
    b"FEA1": OLD_FEATHER,
    b"\xff\xff\xff\xff": ARROW,
    b"%PDF-": PDF,
    b"%!PS": POSTSCRIPT,
    b"{\\rtf1": RTF,
    **dict.fromkeys((b"WARC/0.", b"WARC/1."), WARC),
    b"filedesc://": ARC,
    b"version https://git-lfs.github.com/spec/": POINTER,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": OFFICE,
    b"SQLite format 3\0": SQLITE,
    **{bytes((0x80, protocol)): PICKLE for protocol in range(2, 6)},
    b"\x93NUMPY": ARRAYS,
    b"\x89HDF\r\n\x1a\n": ARRAYS,
    b"MMIDIDX\0\0": ARRAYS,
    b"Obj\x01": TABLE,
    b"ORC": TABLE,
    b"\x7fELF": PROGRAM,
    b"\xfe\xed\xfa": PROGRAM,
    b"\xcf\xfa\xed\xfe": PROGRAM,
    b"\xca\xfe\xba\xbe": PROGRAM,
    b"\0asm": PROGRAM,
    b"\x89PNG\r\n\x1a\n": PICTURE,
    b"\xff\xd8\xff": PICTURE,
    b"GIF8": PICTURE,
    b"II*\0": PICTURE,
    b"MM\0*": PICTURE,
    b"RIFF": SOUND,
    b"ID3": SOUND,
    b"OggS": SOUND,
    b"fLaC": SOUND,
    b"\x1aE\xdf\xa3": SOUND,
}

_SUFFIXES: dict[str, Foreign] = {
    suffix: foreign
    for suffixes, foreign in (
        (".csv", CSV),
        (".tsv .tab", TSV),
        (".html .htm .xhtml .mhtml", HTML),
        (".xml .rss .atom", XML),
        (".svg", SVG),
        (".ipynb", NOTEBOOK),
        (".wat", WAT),
        (".arc", ARC),
        (".parquet .pq", PARQUET),
        (".feather .ipc .arrow", ARROW),
        (".jar .apk .whl .pyc .class .so .dll .exe .o .a", PROGRAM),
        (".docx .doc .xlsx .xls .pptx .ppt .odt .ods .odp .epub .mobi", OFFICE),
        (".pdf", PDF),
        (".ps .eps", POSTSCRIPT),
        (".rtf", RTF),
        (".eml .mbox", MAIL),
        (".sqlite .sqlite3 .db", SQLITE),
        (".pkl .pickle .joblib", PICKLE),
        (".npy .npz .h5 .hdf5 .pt .pth .safetensors .gguf .ckpt", ARRAYS),
        (".mds", SHARD),
        (".tfrecord .tfrecords .avro .orc .msgpack .lmdb .mdb", TABLE),
        (".part .partial .crdownload .incomplete .download .aria2 .tmp", UNFINISHED),
    )
    for suffix in suffixes.split()
}
_MAGICS = tuple(_MAGIC)
_ZIPPED = {suffix: _SUFFIXES[suffix] for suffix in (".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub", ".npz")}
_TAG = rb"\s*(<\?xml\s.*?\?>\s*|<!--.*?-->\s*)*<"
_MARKED = (
    (SVG, re.compile(_TAG + rb"svg[\s>]", re.IGNORECASE | re.DOTALL)),
    (HTML, re.compile(_TAG + rb"(!doctype\s+html|(html|head|body)[\s>])", re.IGNORECASE | re.DOTALL)),
    (XML, re.compile(rb"\s*<(\?xml\s|[a-z][\w:.-]*\s[^<>]*\bxmlns[:=])", re.IGNORECASE)),
    (MAIL, re.compile(rb"From \S+ +[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d ")),
    (JSON_SEQUENCE, re.compile(rb"\x1e\s*[{\[]")),
)
_COLUMN = re.compile(r"[^\W\d][\w.-]*")
_LEAST_RECORDS = 2
_BOMS_16 = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
_LETTERS = 4
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f]")
UTF8_MARK = b"\xef\xbb\xbf"


def packed_as(head: bytes) -> str:
    """Return the compression that the first bytes of a file show, such as `gz`; empty for none."""
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return "bz2"
    if head[1:4] == _SKIPPABLE_ZST and head[:1] in {bytes((at,)) for at in range(0x50, 0x60)}:
        return "zst"
    return next((name for magic, name in _PACKED.items() if head.startswith(magic)), "")


def by_content(head: bytes, suffix: str) -> Foreign | None:
    """Return the binary format that the first bytes of a file show; None if they are text, or unknown."""
    if packed := packed_as(head):
        unsaid = packed in READABLE
        way = f"rename it so that its name ends in .{packed}" if unsaid else "decompress it"
        packed += " data, which its name does not say" if unsaid else " data"
        return _SUFFIXES.get(suffix) or Foreign(name=packed, way=way)
    if head.startswith(b"PK\x03\x04"):
        return _ZIPPED.get(suffix, ZIP)
    if head[257:262] == b"ustar":
        return TAR
    if head[4:8] == b"ftyp":
        return SOUND
    if head.startswith(_MAGICS):  # members of an archive are many, and few of them do
        for magic, foreign in _MAGIC.items():
            if begins_with(head, (magic,)):
                return WAT if foreign is WARC and suffix == ".wat" else foreign
    return UTF16 if head.startswith(_BOMS_16) else None


def begins_with(head: bytes, magic: tuple[bytes, ...]) -> bool:
    """Whether a file begins with one of these, and is no text.

    A few printable letters may also begin a text: `ORC`, `RIFF`. Then there has to be a byte that no text has.
    """
    if not head.startswith(magic):
        return False
    found = next((each for each in magic if head.startswith(each)), None)
    return found is not None and (len(found) > _LETTERS or not found.isalnum() or bool(_CONTROL.search(head[:512])))


def by_suffix(suffix: str) -> Foreign | None:
    """Return the format that a suffix stands for."""
    return _SUFFIXES.get(suffix)


def by_text(head: bytes, *, whole: bool) -> Foreign | None:
    """Return the format of text that the first bytes of a file show, such as HTML; `whole` if they are all of it."""
    text = head.removeprefix(UTF8_MARK)
    if marked := next((foreign for foreign, start in _MARKED if start.match(text)), None):
        return marked
    columns = by_columns(text, whole=whole)
    return {"csv": CSV, "tsv": TSV}.get(columns) if columns is not None else None


def by_columns(head: bytes, *, whole: bool) -> str | None:
    """Return `csv` or `tsv` if the first line names columns, each in one word, and every record has so many."""
    lines = head.removeprefix(UTF8_MARK).decode(errors="replace").splitlines(keepends=True)
    for name, delimiter in (("tsv", "\t"), ("csv", ",")):
        if not lines or delimiter not in lines[0]:
            continue
        names, *records = (record for record in csv.reader(lines, delimiter=delimiter) if record)
        complete = records if whole else records[:-1]
        if len(complete) >= _LEAST_RECORDS and all(_COLUMN.fullmatch(name) for name in names):
            return name if all(len(record) == len(names) for record in complete) else None
    return None
