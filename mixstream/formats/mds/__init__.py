"""MDS version 2, both ways: column encodings, `index.json`, shard bytes (`specs/mds.md`)."""
