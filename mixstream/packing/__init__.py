"""Packing: documents into rows of one length, as an index beside the shards. No shard is rewritten.

A row is spans of documents (`mixstream.data.span_table`); a stream reads such rows at the speed of stored ones. In the
order of the flow:

    source       where the documents of a domain come from
    documents    the documents of one shard, as ranges of its tokens, and ranges as spans of what it stores
    fit          items into rows: best-fit and first-fit
    algorithms   documents into rows: which tokens of which document
    settings     everything that decides the rows
    record       what the files of a packing say
    writer       writes a packing: parts by several workers, then one artefact
    packing      a packing as its reader sees it

Other packages and tools import from here only.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.packing.algorithms import Algorithm, LongDocuments, Pieces, pack_documents
    from mixstream.packing.documents import ShardDocuments
    from mixstream.packing.packing import Packing
    from mixstream.packing.record import Totals
    from mixstream.packing.settings import PackingSettings
    from mixstream.packing.source import DocumentSource, document_source, packable_columns
    from mixstream.packing.writer import PackingWriter, check_pad, merge_packing, part_is_done, write_part

__getattr__, __dir__ = lazily(
    __name__,
    {
        "algorithms": ["Algorithm", "LongDocuments", "Pieces", "pack_documents"],
        "documents": ["ShardDocuments"],
        "packing": ["Packing"],
        "record": ["Totals"],
        "settings": ["PackingSettings"],
        "source": ["DocumentSource", "document_source", "packable_columns"],
        "writer": ["PackingWriter", "check_pad", "merge_packing", "part_is_done", "write_part"],
    },
)


__all__ = [
    "Algorithm",
    "DocumentSource",
    "LongDocuments",
    "Packing",
    "PackingSettings",
    "PackingWriter",
    "Pieces",
    "ShardDocuments",
    "Totals",
    "check_pad",
    "document_source",
    "merge_packing",
    "pack_documents",
    "packable_columns",
    "part_is_done",
    "write_part",
]
