"""Parts → datasets that loaders may open.

publish.py         parts → index.json                       remote.py          the result → an object store
options.py         as they are typed
"""
