"""`streaming.base.stream`: under the alias, `streams_registry` is where programs of mosaicml-streaming look for it."""

from mixstream.loader.registry import streams_registry

__all__ = ["streams_registry"]

# Only the alias imports this module, and never beside the real package: no entry of that one is replaced.
streams_registry.move("streaming", "streams_registry")
