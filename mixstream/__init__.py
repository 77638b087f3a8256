"""mixstream."""
