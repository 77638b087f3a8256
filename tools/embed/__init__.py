"""`mixstream embed`: rows of datasets → unit embeddings, one artefact of scores for each domain.

In the order of the flow:

    command.py   options and help
    job.py       domains → parts → tasks; what is done already; the merge
    work.py      one part: rows → texts → vectors → columns

The law: the columns are a function of the inputs that the artefact records. Workers, parts and restarts change none of
their bytes (on one kind of machine: matrix products round differently on others).
"""
