"""dolma and OLMo: `X.npy` has bare tokens without numpy's header, `X.csv.gz` where documents begin and end.

    .csv.gz: lines "start,end,id,source,line", in tokens, `end` exclusive, without a header

The dtype is not stored. Tokens behind the last document are those of a writer that was killed.
"""

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator

import numpy as np

from mixstream.errors import IndexCorruptError
from mixstream.formats.cuts import Cuts
from mixstream.formats.tokens import raw
from mixstream.formats.tokens.datatrove import checked_ends
from mixstream.formats.tokens.index import BorderFile, TokenFile
from mixstream.formats.tokens.look import Keep, Look, Options
from mixstream.types import Int64, UInt8

_AGAIN = "write or copy it again"


def borders_of(name: str) -> str:
    """Return the name of the table of documents of the .npy called `name`."""
    return name.removesuffix(".npy") + ".csv.gz"


def describe(look: Look, name: str, options: Options) -> TokenFile:
    """Return what is known of a file that has a table of documents.

    Raises:
        ConfigError, ShardCorruptError: as `raw.describe`.
    """
    made, table = raw.describe(look, name, options), look.info(borders_of(name))
    borders = BorderFile(name=borders_of(name), bytes=table.size, version=table.identity)
    return TokenFile(
        name=name,
        bytes=made.bytes,
        version=made.version,
        dtype=made.dtype,
        begin=made.begin,
        tokens=made.tokens,
        borders=borders,
    )


def cuts(file: TokenFile, data: UInt8, keep: Keep) -> Cuts:
    """Return where the documents of a file end, from the bytes `data` of its .csv.gz; `keep` stores the ends.

    Raises:
        IndexCorruptError: the table is damaged, or its documents do not touch, or lie outside the file.
    """
    assert file.borders is not None
    kept = keep(_ends(data, file.borders.name))
    made = checked_ends(kept, len(kept) // 8, file, where=file.borders.name, whole=False)
    if left := file.tokens - made.begin(made.count):
        warnings.warn(
            f"{file.name}: {left:,} of its {file.tokens:,} tokens are behind the last document of {file.borders.name}, "
            "as a writer leaves them that was killed; as documents they are not read, in rows they are",
            stacklevel=2,
        )
    return made


def _ends(data: UInt8, where: str) -> Iterator[Int64]:
    import pyarrow as pa
    from pyarrow import csv

    last = 0
    try:
        with gzip.open(io.BytesIO(data.data), "rb") as stream:
            if not stream.peek(1):  # no document at all; a table without lines is an error to pyarrow
                return
            table = csv.open_csv(
                stream,
                read_options=csv.ReadOptions(use_threads=False, autogenerate_column_names=True),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    include_columns=["f0", "f1"], column_types={"f0": pa.int64(), "f1": pa.int64()}
                ),
            )
            for batch in table:
                if not len(batch):
                    continue
                begin_N, end_N = (batch.column(name).to_numpy() for name in ("f0", "f1"))
                wrong_N = begin_N != np.concatenate(([last], end_N[:-1]))
                if wrong_N.any():
                    i = int(np.argmax(wrong_N))
                    before = int(end_N[i - 1]) if i else last
                    raise IndexCorruptError(
                        f"{where}: a document begins at token {int(begin_N[i]):,}, and the one before it ends at "
                        f"{before:,}: documents of a file follow each other without gaps; {_AGAIN}"
                    )
                last = int(end_N[-1])
                yield end_N
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, EOFError, zlib.error) as error:
        raise IndexCorruptError(
            f"{where} is damaged, or no table of documents of dolma ({error}); {_AGAIN}, or remove it to read rows"
        ) from error
