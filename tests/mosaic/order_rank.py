"""One rank of a run of mosaicml-streaming, for test_order_live.py: prints what it reads.

    python tests/mosaic/order_rank.py ROOT ARGUMENTS STEPS STATE

RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which. ARGUMENTS is the dataset's, as
JSON; after STEPS steps (0: all of the epoch) it prints its samples and the state.
"""

import itertools
import json
import sys

from streaming import StreamingDataLoader, StreamingDataset


def main() -> None:
    """Read one epoch, or a part of it."""
    root, arguments, steps, state = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    dataset = StreamingDataset(local=root, **arguments)
    loader = StreamingDataLoader(dataset, batch_size=arguments["batch_size"])
    if state is not None:
        loader.load_state_dict(state)
    read = [batch["x"].tolist() for batch in itertools.islice(loader, steps or None)]
    print(json.dumps({"read": read, "state": loader.state_dict()}))  # noqa: T201


if __name__ == "__main__":
    main()
