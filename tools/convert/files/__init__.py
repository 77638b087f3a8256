"""Source files as bytes: which of them are read, ranges of them, where the bytes come from, and decompression.

choice.py          which files are read, and as what        source_files.py    files, slices, and opening them
stored_bytes.py    one raw stream, on disk or in a store    object_stream.py   an object, requested ahead
compression.py     gz, zst, bz2, xz
"""
