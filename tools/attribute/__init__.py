"""`mixstream attribute`: which rows lower the loss on target tasks (DsDm), from the gradients of small proxy models.

In the order of the flow:

    command     the options and the help of `features` and `score`
    feature_run, score_run    one run of each
    proxies     what --model names -> models, and what identifies their weights
    settings    everything that decides features, as one record
    features    a part of a domain's rows -> features
    targets     files, datasets or features -> the mean feature of each target set
    score       features and targets -> scores
    show        what the commands print

The estimator itself is `mixstream.selection.datamodels`.
"""
