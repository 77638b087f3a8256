"""The cache of shards on local disk: one directory, shared by any number of processes through files and locks alone."""
