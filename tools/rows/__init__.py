"""`mixstream rows`: which samples were in a step of a run.

command     options, help, and the flow of the command
source      the run and its domains, from a log or a state, and where its shards are
samples     what a sample is: its shard, its documents, its text
show        the result as tables
"""
