"""`streaming.StreamingDataset`: mixstream's, with the default order of `install()`."""

import inspect
from typing import Any

import mixstream
from mixstream.compat.alias import default_order


class _Either(type(mixstream.StreamingDataset)):
    """Metaclass: an instance of either class counts as one of the aliased class.

    The bases are compared, and `issubclass` is not called: that of an abstract class asks its subclasses, this one too.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        return cls.__subclasscheck__(type(instance))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return (mixstream.StreamingDataset if cls is StreamingDataset else cls) in subclass.__mro__


class StreamingDataset(mixstream.StreamingDataset, metaclass=_Either):
    """`mixstream.StreamingDataset`, whose `order` is by default the one of `mixstream.compat.install()`.

    Every `mixstream.StreamingDataset` counts as an instance of it, and every instance of it as one of
    `mixstream.StreamingDataset`.
    """

    def __init__(self, **options: Any) -> None:
        given: dict[str, Any] = {"order": default_order(), **options}
        super().__init__(**given)

    # Programs filter their settings by the names in the signature, so these are explicit.
    __init__.__signature__ = inspect.signature(mixstream.StreamingDataset.__init__)  # type: ignore[attr-defined]
