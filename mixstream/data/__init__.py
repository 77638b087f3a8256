"""Bytes: addresses of rows become finished batches.

What lives here: opening shards, reading their rows, fetching shards ahead of the reader. What must not: which rows a
batch has (`plan`), how bytes are encoded (`formats`), where files are (`storage`). In the order of the flow:

    token_place     whether a stream is of token files                             token_index, column_index
    domain          one dataset: its shards, mapped when they are needed           shard_specs
    packed          its shards, read as packed rows              span_table, packed_rows; sample_file, sequence_rows
    domains         all of them: an address becomes bytes                open_shards, record_kinds, gather, gather_spans
    batch           samples or columns become a batch
    document_masks  where documents lie in a batch                                 row_documents, document_columns
    assemble        addresses become a finished batch
    document_masks  columns of documents in a batch                                document_columns, segments
    row_documents   where documents begin in rows: the protocol                    listed_borders, span_documents
    compiling       numba is loaded in the background, while numpy gathers
    bad_samples     what happens to samples that cannot be read
    predownload     which shards are fetched ahead, and which are evicted    downloader
"""
