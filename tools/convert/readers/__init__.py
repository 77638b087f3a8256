"""Source format to documents, one format a file."""
