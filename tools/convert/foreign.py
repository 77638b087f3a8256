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
_READ = "a later version may read it; now:"
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


def _lines(modules: str, first: str, value: str, loops: str) -> str:
    """A command that prints one JSON line for each record of the files that follow."""
    body = f"import json, sys, {modules}; {first}[print(json.dumps({value})) for f in sys.argv[1:] {loops}]"
    return f'python -c "{body}" FILE {_TO}'


def _csv(name: str, delimiter: str) -> Foreign:
    loop = f"for row in csv.DictReader(open(f, newline='', encoding='utf-8-sig'){delimiter})"
    return _source(name, _lines("csv", "csv.field_size_limit(1 << 30); ", "row", loop))


def _arrow(name: str, module: str, batches: str) -> Foreign:
    loops = f"for batch in {batches} for row in batch.to_pylist()"
    return Foreign(name=name, way=f"{_READ} {_lines(f'{module} as m', '', 'row, default=str', loops)}")


CSV, TSV = _csv("a CSV table", ""), _csv("a table with tabs", r", delimiter='\t'")
HTML, XML = _source("HTML", _MARKUP), _source("XML", _MARKUP)
PROGRAM, PICTURE, SOUND = _media("a program"), _media("a picture"), _media("sound or video")
SVG = Foreign(name="a picture", way=_MEDIA, data=False, is_text=True)
NOTEBOOK = _source("a Jupyter notebook", "jupyter nbconvert --to markdown FILE, or --to script")
WARC = _source("a WARC file", _RECORDS)
PARQUET = _arrow("Parquet", "pyarrow.parquet", "m.ParquetFile(f).iter_batches()")
ARROW = _arrow("an Arrow file", "pyarrow.feather", "m.read_table(f).to_batches()")
ARROW_STREAM = _arrow("an Arrow stream, as `save_to_disk` of Hugging Face writes it", "pyarrow", "m.ipc.open_stream(f)")
TAR, ZIP = _unpack("a tar archive", "tar -xf FILE -C DIR"), _unpack("a zip archive", "unzip FILE -d DIR")
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
    b"PARE": PARQUET,
    b"ARROW1\0\0": ARROW,
    b"FEA1": ARROW,
    b"\xff\xff\xff\xff": ARROW_STREAM,
    b"%PDF-": PDF,
    b"%!PS": POSTSCRIPT,
    b"{\\rtf1": RTF,
    **dict.fromkeys((b"WARC/0.", b"WARC/1.", b"filedesc://"), WARC),
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
        (".warc .wet .wat .arc", WARC),
        (".parquet .pq", PARQUET),
        (".feather .ipc", ARROW),
        (".arrow", ARROW_STREAM),
        (".tar .tgz .tbz2 .txz", TAR),
        (".zip", ZIP),
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
    for magic, foreign in _MAGIC.items():
        # A few printable letters may also begin a text: `ORC`, `RIFF`. Then there has to be a byte that no text has.
        if head.startswith(magic) and (len(magic) > _LETTERS or not magic.isalnum() or _CONTROL.search(head[:512])):
            return foreign
    return UTF16 if head.startswith(_BOMS_16) else None


def by_suffix(suffix: str) -> Foreign | None:
    """Return the format that a suffix stands for."""
    return _SUFFIXES.get(suffix)


def by_text(head: bytes, *, whole: bool) -> Foreign | None:
    """Return the format of text that the first bytes of a file show, such as HTML; `whole` if they are all of it."""
    text = head.removeprefix(UTF8_MARK)
    return next((foreign for foreign, start in _MARKED if start.match(text)), None) or _by_columns(text, whole=whole)


def _by_columns(head: bytes, *, whole: bool) -> Foreign | None:
    """Return CSV or its like if the first line names columns, each in one word, and every record has so many."""
    lines = head.decode(errors="replace").splitlines(keepends=True)
    for foreign, delimiter in ((TSV, "\t"), (CSV, ",")):
        if not lines or delimiter not in lines[0]:
            continue
        names, *records = (record for record in csv.reader(lines, delimiter=delimiter) if record)
        complete = records if whole else records[:-1]
        if len(complete) >= _LEAST_RECORDS and all(_COLUMN.fullmatch(name) for name in names):
            return foreign if all(len(record) == len(names) for record in complete) else None
    return None
