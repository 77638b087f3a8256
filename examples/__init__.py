"""What you learn from: programs short enough to read. They import the library's public names and nothing else of it."""
