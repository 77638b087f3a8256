"""Where the tasks of a conversion run, one kind of place a file."""
