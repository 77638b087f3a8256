"""JSON, CSV, TSV and XSV shards, as mosaicml-streaming writes and reads them (`specs/mds.md` section 4).

Such a shard is split over two files: the data, which are lines of text, and `….meta` with the offset of each line. In
memory both are one array, the meta file first (`layout`). In the order of the flow from a sample to a dataset:

    encodings  str, int and float <-> text
    info       a shard's entry in `index.json`, checked
    layout     where the rows of a shard lie in the bytes of its two files
    lines      samples <-> lines, and lines <-> the two files

A function that meets wrong input raises plain `TypeError` or `ValueError` with the bare fact, where its docstring says
so; the callers turn these into errors of mixstream.
"""
