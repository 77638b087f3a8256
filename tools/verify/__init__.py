"""`mixstream verify`."""
