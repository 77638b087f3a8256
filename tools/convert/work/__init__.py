"""One part from start to end, in one process.

work.py            slices → documents → ids → shards        packer.py          ids → rows → shards
rejects.py         documents that cannot be read            placement.py       processes here, or a Ray cluster
"""
