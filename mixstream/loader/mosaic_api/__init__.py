"""What programs of mosaicml-streaming read from, and call on, a dataset or a stream, in any order of samples.

mixstream itself needs little of it. It is here so that such programs have to change their import line only.

    options         the arguments of a dataset
    shard_tables    samples and shards by number
    epoch_tables    how long epochs are, and which samples they take
    cache_control   fetch and evict shards by number
    stream          weights, defaults and shards of a stream
"""
