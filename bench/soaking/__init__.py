"""The parts of `bench/soak.py`: scenarios, readers that are killed, a store that fails, and the comparison."""
