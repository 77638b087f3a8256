"""Where each document lies in the shards, and what is known of it: `documents/part-00000.parquet`.

noted.py           what a part notes                        published.py       … → the files of a dataset
kept.py            values of `--keep` → columns
"""
