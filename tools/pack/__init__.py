"""`mixstream pack`: documents into rows of one length, as an index beside the shards."""
