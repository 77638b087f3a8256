"""`streaming`, where this directory's parent is on the path: it is replaced by mixstream's stand-in while it loads."""

from mixstream.compat import install

install()
