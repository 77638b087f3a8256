"""`StreamingDataset(order="mosaic")`: the samples of mosaicml-streaming in its order, with its states.

`mixstream.plan.mosaic` computes that order; here a dataset iterates it. Only `switch` is imported by the rest of the
loader; what it needs of the others, it imports where `order="mosaic"` is asked for.

    switch        what the order refuses, and the way from its states to our own order
    order         `MosaicOrder`, a `loader.order.Order`                   shared_epoch: for DataLoader workers
    origin        where the first epoch begins: at epoch 0, or in a state
    setup         from a dataset's options to a plan
    run           a plan and its domains: the counterpart of `loader.run`
"""
