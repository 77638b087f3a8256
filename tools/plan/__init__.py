"""`mixstream plan`."""
