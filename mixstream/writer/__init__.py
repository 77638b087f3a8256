"""Writes a dataset: samples in, shards and `index.json` out (`specs/mds.md`, `specs/streaming_api.md` section 1.9).

`mixstream.formats` encodes, `storage.destination` stores, and this package owns the threads between them:

    options  arguments, checked
    base     `Writer`: samples become shards, threads store them, the index comes last
    mds      `MDSWriter`
    split    `JSONWriter`, `CSVWriter`, `TSVWriter` and `XSVWriter`

For the same input it writes the same bytes as the writers of mosaicml-streaming. Its rules:

- Every file appears whole, the index last, so a dataset with an index is complete. After an exception, or `kill -9` at
  any instant, there is no index. The shards written until then stay.
- When it returns from writing the index, the dataset survives a power cut; until then, a power cut leaves no index. The
  bytes of each shard are on the disk before it has its name, and the names of all before there is an index.
- A directory has one writer at a time; a second one is refused (those who write in parallel use `merge_index`). A
  store has no locks: there a writer leaves a mark, and fails before its next file once another has replaced it.
- A shard is never empty and never larger than 2**32 - 1 bytes, the limit of its offsets.
- Threads compress, hash and write (or upload). The number of shards that wait for them in memory is bounded. The next
  call raises their errors, unchanged.

Differences from mosaicml-streaming:

- A value that a column cannot hold (300 or 3.7 in a `uint8`, 1e6 in a `float16`) raises an error. mosaicml-streaming
  stores another number.
- So does a value that CSV, TSV or XSV would give back as another one (`True` in an `int`, `a|` before the separator
  `||`), and a newline that is no white space in JSON, which its own reader cannot read.
- A gzip header contains no time of day.
- Uploads take their bytes from memory. With `(local, remote)`, nothing is written to `local` unless `keep_local`.
- A remote that is not empty is refused too.
"""

from mixstream.writer.base import Writer
from mixstream.writer.mds import MDSWriter
from mixstream.writer.split import CSVWriter, JSONWriter, SplitWriter, TSVWriter, XSVWriter

__all__ = ["CSVWriter", "JSONWriter", "MDSWriter", "SplitWriter", "TSVWriter", "Writer", "XSVWriter"]
