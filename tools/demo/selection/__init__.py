"""`mixstream demo selection`: real text with planted faults, pruned and streamed. command.py says what happens."""
