"""`mixstream inspect`."""
