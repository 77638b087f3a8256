"""What a user iterates over, and the threads, processes and devices behind it.

What lives here: the public classes, and what they share. What must not: arithmetic of the plan, reading of shards,
anything that a mixer computes. In the order of the flow:

    stream          the user's description of a domain
    run             what is drawn, from which domains, by which mixer
    checkpoint      where a run goes on: the start, or a state that was loaded
    dataset         `StreamingDataset`                            mosaic_api, workers
    place        how far a loader has come in a run            reports: losses and evaluations
    loader          `Loader`: threads in the trainer's process    batch_maker, prefetch, device, describe
    dataloader      `StreamingDataLoader`: torch's worker processes
    validation      a fixed set of rows per domain
"""
