"""Bytes: addresses of rows become finished batches.

What lives here: opening shards, reading their rows, fetching shards ahead of the reader. What must not: which rows a
batch has (`plan`), how bytes are encoded (`formats`), where files are (`storage`). In the order of the flow:

    domain          one dataset: its shards, mapped when they are needed
    domains         all of them: an address becomes bytes                          open_shards, gather
    batch           samples or columns become a batch
    assemble        addresses become a finished batch
    bad_samples     what happens to samples that cannot be read
    predownload     which shards are fetched ahead, and which are evicted    downloader
"""
