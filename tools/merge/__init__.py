"""`mixstream merge`: datasets, or whole outputs of `mixstream convert`, → one, with the shards as they are.

In the order of the flow:

    command.py   options and help                 job.py        claims the output, copies, writes indexes last
    plan.py      which dataset is made of which   documents.py  sidecars, renumbered
    agreed.py    what members must have in common

The law: no shard changes. Rows stand in the order of the URLs, and what would be lost or counted twice is refused.
"""
