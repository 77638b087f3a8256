"""The checks of an answer against the request, before its body is read."""

from mixstream.errors import StoreFaultError
from mixstream.storage.store import ObjectInfo, check_version, range_end
from mixstream.storage.stores.client_errors import Operation


def check_answer(operation: Operation, info: ObjectInfo, got: tuple[int, int], length: int) -> None:
    """Check an answer against the request.

    Args:
        operation: the request.
        info: of the whole object, as the answer describes it.
        got: the range that the answer says it has.
        length: bytes of its body.
    """
    begin, end = operation.begin, info.size if operation.end is None else operation.end
    if info.size == 0 and info.version is None and length == 0:
        raise StoreFaultError(
            f"{operation.place}: the answer is empty and describes no object (no ETag, no date): it is not from a store"
        )
    range_end(operation.place, begin, end, info.size)
    if got != (begin, end):
        raise StoreFaultError(f"{operation.place}: bytes {begin} to {end} requested, {got[0]} to {got[1]} received")
    if length != end - begin:
        raise StoreFaultError(
            f"{operation.place}: bytes {begin} to {end} requested, that is {end - begin}, and a body of {length} "
            "received; a proxy or cache between here and the store may alter it"
        )
    check_version(operation.place, info.version, operation.version)
