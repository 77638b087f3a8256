"""`mixstream reshard`: MDS datasets → the same rows in other shards: size, compression, hashes, dtype, order.

In the order of the flow:

    command.py    options and help              job.py       datasets → parts → indexes; what is done already
    target.py     what new shards are like      rows.py      rows of the old shards, checked and converted
    cuts.py       where new shards begin        shuffled.py  rows in the order of keyed hashes, in bounded memory
    dataset.py    one dataset: borders, parts
    write.py      one part: rows → shards       sidecars.py  which documents lie in which row
    records.py    what is done, at OUT/.reshard

The law: output bytes are a function of the rows and the options. Workers, parts, restarts and the old shards' borders
change none of them; without --shuffle-seed they are the bytes that MDSWriter writes of the same rows.
"""
