"""`mixstream convert`: text and JSONL → tokenised MDS shards, one dataset for each domain.

Read in the order of the flow (job.py draws it):

    command.py    options and help                 job.py        wires the rest
    sources.py    SRC → domains and files          files.py      stored bytes, decompressed
    parts.py      files → units of work            readers.py    a format → documents
    executor.py   where the work runs              tokenizer.py  text → ids
    work.py       one unit of work                 packer.py     ids → rows → shards
    ledger.py     what is done already             publish.py    units → index.json
    recipe.py     the options that decide bytes    remote.py     all of it → a store
    uploads.py    what is at the store already

Seams: a new source format is a function in `readers.READERS`, a new tokenizer a spec and a class with `encode`, a
cluster an `executor.Executor`.

The law: output bytes are a function of the recipe and the sources. Workers, restarts and `kill -9` change none of them.
"""
