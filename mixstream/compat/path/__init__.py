"""A directory for `sys.path` and PYTHONPATH, in which `streaming` is mixstream's stand-in; see `mixstream.compat`."""
