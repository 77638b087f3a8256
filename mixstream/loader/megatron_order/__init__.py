"""`StreamingDataset(order="megatron")`: `.bin/.idx` pairs in the sample order of Megatron-LM.

`mixstream.plan.megatron` computes that order, and `data.sample_file` keeps it; here a dataset takes it in place of our
mixing. Positions, states, workers and ranks are those of our own order. In the order of the flow:

    options   `MegatronOrder`, what a user says of the order
    switch    what the order refuses
    mixing    the streams as domains in that order, and the blend of them
    order     a `loader.own_order.OwnOrder` that also goes on from a count of consumed samples
"""
