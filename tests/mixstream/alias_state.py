"""The alias `streaming`, installed for one test and taken away after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import mixstream as ms
import mixstream.compat


@contextmanager
def installed(order: str | None = None) -> Iterator[None]:
    """Install the alias; at the end, leave no trace of it in this process."""
    finders, paths, order_before = [*sys.meta_path], [*sys.path], os.environ.get("MIXSTREAM_COMPAT_ORDER")
    modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "streaming"}
    try:
        mixstream.compat.install(order=order)
        yield
    finally:
        sys.meta_path[:], sys.path[:] = finders, paths
        ms.streams_registry.move("mixstream", "streams_registry")
        sys.modules.pop("mixstream.compat.streams", None)
        for name in [name for name in sys.modules if name.partition(".")[0] == "streaming"]:
            del sys.modules[name]
        sys.modules.update(modules)
        os.environ.pop("MIXSTREAM_COMPAT_ORDER", None)
        if order_before is not None:
            os.environ["MIXSTREAM_COMPAT_ORDER"] = order_before
