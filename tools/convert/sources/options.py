"""The options of convert that say which files are read, and as what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..files.choice import Choice
from ..panels import SOURCES
from ..readers import READERS
from ..tokens.from_tokenizer import FromTokenizer

if TYPE_CHECKING:
    _Format = str  # pyright cannot evaluate the table
else:
    _Format = Literal[("auto", *READERS)]
_Patterns = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
TOPICS = """SOURCES. SRC is a file, a directory, a pattern ('crawl/**/*.jsonl'), or a URL
of one (s3://, gs://, az://, hf:// and whatever fsspec knows; https:// of a
file). What a document is:
  JSON           a line (.jsonl, .ndjson), or an object of an array or of a
                 file (.json); blank lines and comments after # or // are
                 skipped
  tables         a row of Parquet, Arrow, Feather, or what save_to_disk of
                 Hugging Face wrote; of CSV and TSV, whose first row names
                 the columns
  text in UTF-8  the file, or what stands between --document-separator
  tar, zip       each text in it; of WebDataset each sample (--text-key txt
                 or json.text)
  WARC, WET      a page; HTML needs --extract
  index.json     a sample of the dataset, or each document of its tokens
All but Parquet, Arrow, zip and datasets may be .gz, .zst, .bz2 or .xz. What
a file holds decides, then its suffix. HTML, notebooks, PDF and other known
formats are refused before anything is converted, with a way in; --as-text
'*.html' takes the source of such files as text. Directories are walked to
the bottom. Hidden files, marks and checksums of other programs, pictures and
programs, a README beside JSON, and links below a directory are skipped and
counted. Tables of several splits are refused until one is named. Files in
stores are read in pieces, never downloaded whole. Patterns of --include and
--exclude with a slash are for the path below SRC, others for the name. `-` is
standard input (the domain stdin; or NAME=-), copied to --out until it is
published:
zcat x.gz | mixstream convert web=- --out shards/
"""
"""What the help of the command says of them."""
BAD_DOCUMENTS = """BAD DOCUMENTS cannot be read: they are not UTF-8, have a NUL byte, are no
JSON, or lack a field. One stops the command, unless --on-bad-document skip or
--max-rejects says otherwise: then it is left out as a whole, counted by
reason, and listed in DIR/DOMAIN/rejects.jsonl (where fields name domains, in
DIR/rejects.jsonl). A line or an object of JSON, and a document between
separators, has at most 256 MiB. The name of a domain has at most 1000
characters.
"""


@Parameter(name="*", group=SOURCES)
@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """Which files are read, and as what. As a parameter of a command, its fields are options.

    Args:
        format: read every file as this format, whatever its suffix.
        include: in directories and archives, only files that match (`*.py`, `docs/*`); may be repeated.
        exclude: no files that match; may be repeated.
        as_text: files that match are text, whatever they hold (`*.html`); may be repeated.
        extract: what makes text of HTML in WARC files: none, resiliparse, trafilatura, or module:function.
        from_tokenizer: with a dataset of tokens as SRC: what made them; default: the one that the dataset names.
        on_bad_document: at the first document that cannot be read, fail; or skip all of them: see BAD DOCUMENTS.
        max_rejects: skip bad documents up to so many, or such a share (0.1%), and fail if there are more.
    """

    format: _Format = "auto"
    include: _Patterns = ()
    exclude: _Patterns = ()
    as_text: _Patterns = ()
    extract: str = "none"
    from_tokenizer: str | None = None
    on_bad_document: Literal["raise", "skip"] = "raise"
    max_rejects: str | None = None

    def choice(self) -> Choice:
        """Return what they say of files; `extract` is of documents."""
        return Choice(
            include=self.include,
            exclude=self.exclude,
            format=self.format,
            as_text=self.as_text,
            decoder=None if self.from_tokenizer is None else FromTokenizer.find(self.from_tokenizer),
        )
