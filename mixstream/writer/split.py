"""`JSONWriter`, `CSVWriter`, `TSVWriter` and `XSVWriter`: samples in, shards of text and their index out.

A shard is two files: lines of text, and the offset of each line (`formats.split`). There is no quoting.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mixstream.formats import FileInfo, SplitInfo
from mixstream.formats.split.encodings import MDS_NAMES
from mixstream.formats.split.info import SEPARATORS
from mixstream.formats.split.lines import encode_files, encode_line, header_of
from mixstream.writer.base import Writer
from mixstream.writer.options import line_marks, split_columns

_Out = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]


class SplitWriter(Writer):
    """What the writers of shards of two files have in common. Use one of them."""

    _template: SplitInfo

    def _begin_lines(self, name: str, columns: Mapping[str, str], newline: str, separator: str | None) -> None:
        self.columns = split_columns(columns)
        self.column_names = list(self.columns)
        self.column_encodings = list(self.columns.values())
        self.newline, mark = line_marks(name, newline, separator, self.column_names)
        template = SplitInfo(
            name=name,
            samples=0,
            column_names=tuple(self.column_names),
            column_encodings=tuple(MDS_NAMES[encoding] for encoding in self.column_encodings),
            column_sizes=(None,) * len(self.columns),
            encodings=tuple(self.column_encodings),
            newline=self.newline,
            separator=mark,
            compression=self.compression,
            hashes=tuple(self.hashes),
            size_limit=self.size_limit,
            raw=FileInfo(basename="", bytes=0, hashes={}),
            zip=None,
        )
        self._begin(template, empty=0, hidden=len(header_of(template)), each=0)

    def encode_sample(self, sample: Mapping[str, Any]) -> bytes:
        """Return one sample as its line in a shard."""
        return encode_line(sample, self._template)

    def encode_split_shard(self) -> tuple[bytes, bytes]:
        """Return the bytes of the current shard: of its data file, and of its meta file."""
        return encode_files(self._new_samples, self._template)

    def _encode_files(self) -> tuple[bytes, ...]:
        return self.encode_split_shard()


class JSONWriter(SplitWriter):
    r"""Writes samples into shards of JSON lines and, at the end, their index.

    >>> import os
    >>> from pathlib import Path
    >>> with JSONWriter(out="corpus", columns={"text": "str", "id": "int"}) as writer:
    ...     for i, text in enumerate(["red", "blue"]):
    ...         writer.write({"text": text, "id": i})
    >>> sorted(os.listdir("corpus"))
    ['index.json', 'shard.00000.json', 'shard.00000.json.meta']
    >>> print(Path("corpus/shard.00000.json").read_text(), end="")
    {"id": 0, "text": "red"}
    {"id": 1, "text": "blue"}

    Args:
        columns: encoding of each column, by name: "str", "int" or "float". Further keys of a sample are ignored.
        newline: what a line ends with: white space.
        out: as in `MDSWriter`; so are `keep_local`, `compression`, `hashes`, and the other arguments, `progress_bar`,
            `max_workers`, `retry`, `exist_ok` and `metadata`.
        size_limit: largest size of a data file in bytes; the meta file is not counted.

    Raises:
        ConfigError, EncodingError, OutputExistsError, StoreError: as `MDSWriter`.
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, str],
        newline: str = "\n",
        out: _Out,
        keep_local: bool = False,
        compression: str | None = None,
        hashes: Sequence[str] | None = None,
        size_limit: int | str | None = 1 << 26,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            out=out, keep_local=keep_local, compression=compression, hashes=hashes, size_limit=size_limit, **kwargs
        )
        self._begin_lines("json", columns, newline, None)


class XSVWriter(SplitWriter):
    r"""Writes samples into shards of lines with a separator between values and, at the end, their index.

    A value that contains the separator or the newline raises EncodingError, since there is no quoting.

    >>> from pathlib import Path
    >>> with XSVWriter(out="lines", columns={"text": "str", "id": "int"}, separator="|") as writer:
    ...     writer.write({"text": "red", "id": 0})
    >>> print(Path("lines/shard.00000.xsv").read_text(), end="")
    id|text
    0|red

    Args:
        columns: encoding of each column, by name: "str", "int" or "float". Further keys of a sample are ignored.
        separator: what stands between the values of a line.
        newline: what a line ends with.
        out: as in `MDSWriter`; so are `keep_local`, `compression`, `hashes`, and the other arguments, `progress_bar`,
            `max_workers`, `retry`, `exist_ok` and `metadata`.
        size_limit: largest size of the lines of a data file in bytes; that of the column names and the meta file are
            not counted.

    Raises:
        ConfigError, EncodingError, OutputExistsError, StoreError: as `MDSWriter`; ConfigError also for the name of a
            column that contains separator or newline.
    """

    _name = "xsv"

    def __init__(
        self,
        *,
        columns: Mapping[str, str],
        separator: str,
        newline: str = "\n",
        out: _Out,
        keep_local: bool = False,
        compression: str | None = None,
        hashes: Sequence[str] | None = None,
        size_limit: int | str | None = 1 << 26,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            out=out, keep_local=keep_local, compression=compression, hashes=hashes, size_limit=size_limit, **kwargs
        )
        self.separator = separator
        self._begin_lines(self._name, columns, newline, separator)


class CSVWriter(XSVWriter):
    """Writes samples into shards of lines with commas between values, as `XSVWriter`.

    >>> with CSVWriter(out="table", columns={"text": "str"}) as writer:
    ...     writer.encode_sample({"text": "red"})
    b'red\\n'
    """

    _name = "csv"

    def __init__(self, *, columns: Mapping[str, str], newline: str = "\n", out: _Out, **options: Any) -> None:
        super().__init__(columns=columns, separator=SEPARATORS["csv"], newline=newline, out=out, **options)


class TSVWriter(XSVWriter):
    """Writes samples into shards of lines with tabs between values, as `XSVWriter`."""

    _name = "tsv"

    def __init__(self, *, columns: Mapping[str, str], newline: str = "\n", out: _Out, **options: Any) -> None:
        super().__init__(columns=columns, separator=SEPARATORS["tsv"], newline=newline, out=out, **options)
