"""`mixstream demo`."""
