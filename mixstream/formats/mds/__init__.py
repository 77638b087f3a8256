"""MDS version 2, both ways (`specs/mds.md`). Plan, cache and loaders know none of this, only `formats.Container`.

In the order of the flow from a sample to a dataset:

    ndarrays   numbers and arrays <-> bytes
    images     Pillow images <-> bytes
    encodings  the table of column encodings, by name
    paths      which file names of an index are valid
    index      `index.json` <-> `Index`, checked as a whole
    shard      samples <-> the bytes of a shard
    container  `MDS`, which implements `Container`

A codec raises plain `TypeError` or `ValueError` with the bare fact; `encodings`, `index` and `shard` turn these into
errors of mixstream.
"""
