"""Turning a URL or path into a store. This imports all kinds of stores; they do not import it.

Nothing heavy is imported before a URL needs it: obstore, boto3 and fsspec take time to import, and obstore may not be
used in a forked child whose parent used it (DESIGN.md section 5, Fork), where `stores/fork_proxy` replaces it.
"""

from mixstream.storage.forks import must_use_proxy, unforked
from mixstream.storage.store import Store
from mixstream.storage.url import OBJECT_SCHEMES, is_local, local_path, scheme_of


def open_store(url: str, *, timeout: float = 60.0) -> Store:
    """Return the store of a URL or of a local path; no request is made.

    Args:
        url: `s3://`, `gs://`, `az://` (`azure://`, `abfs://`), `http(s)://`, `file://`, a path, or another URL that
            fsspec knows.
        timeout: seconds per request, its body included.

    Raises:
        ConfigError: the URL names no bucket, or no installed package knows its scheme.
    """
    with unforked():  # a child forked in mid-import could never import that module
        if is_local(url):
            from mixstream.storage.stores.local import LocalStore

            return LocalStore(local_path(url))
        if scheme_of(url) in OBJECT_SCHEMES:
            from mixstream.storage.stores.fork_proxy import ProcessStore

            if must_use_proxy():
                return ProcessStore(url, timeout, open_store)
            # Loads obstore now, not at the first request: `must_use_proxy` looks for it in children forked later.
            from mixstream.storage.stores.obstore import ObjectStore

            return ObjectStore(url, timeout)
        from mixstream.storage.stores.fsspec import FsspecStore

        return FsspecStore(url, timeout)
