"""What a store's client says when a request fails, told as an error of our tree.

What lives here: the reading of texts and status codes, no requests. Rules: the words of an error that leaves here are
our own; of the store's they hold the status and the code (`SlowDown`, `ExpiredToken`), never its prose, a header, or
the client's dump of the request, for those can carry signatures and credentials. obstore tells the status of a refusal
in its text only, hence the patterns.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
https://cloud.google.com/storage/docs/xml-api/reference-status,
https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-error-codes
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mixstream.errors import (
    NoRangesError,
    StoreAccessError,
    StoreBusyError,
    StoreChangedError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.storage.url import redact

_DUMP = "\n\nDebug source:"
_STATUS = re.compile(r"status code: (\d{3})\b")
# An answer to HEAD has no body, where the code would stand. With 400, S3 means expired credentials or another region.
_MUTE = re.compile(r"performing HEAD\b.*status code: 400\b", re.DOTALL)
_ADDRESS = re.compile(r"https?://\S+|path: \".*?\"")
_ENDPOINT = re.compile(r"performing [A-Z]+ (https?://)(?:[^\s/?#]*@)?([^\s/?#@]+)")
_PAYS = re.compile(r"request(?:er)?[ _-]?pay", re.IGNORECASE)
_CODE = re.compile(
    r"""<Code>([A-Za-z][A-Za-z0-9_.]{1,63})</Code>|"(?:code|reason)": ?"([A-Za-z][A-Za-z0-9_.]{1,63})\""""
)

_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect")
_FAULTS = (408, *(status for status in range(500, 600) if status not in (501, 503, 505)))

# The codes and the statuses of a refusal, what it is to us, and what to say; the first that fits holds.
_RULES: tuple[tuple[tuple[str, ...], tuple[int, ...], type[StoreError], str], ...] = (
    (
        ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"),
        (),
        StoreAccessError,
        "the credentials have expired; {access}",
    ),
    (
        ("RequestTimeTooSkewed",),
        (),
        StoreAccessError,
        "the clocks disagree: set this machine's clock (chronyc makestep)",
    ),
    (
        ("InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidAuthenticationInfo"),
        (401, 403, 407),
        StoreAccessError,
        "{refused}; {access}",
    ),
    (
        ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "InvalidResourceName"),
        (),
        StoreNotFoundError,
        "there is no such bucket or container: check the URL's spelling",
    ),
    (
        (),
        (404,),
        StoreNotFoundError,
        "there is no such object: check `remote` and `split`, or upload it again",
    ),
    (
        (),
        (412,),
        StoreChangedError,
        "the object is another one than before (it was {version}): do not replace objects while they are read",
    ),
    (
        (
            *("SlowDown", "ServerBusy", "TooManyRequests", "Throttling", "ThrottlingException", "RequestThrottled"),
            *("RequestLimitExceeded", "BandwidthLimitExceeded", "rateLimitExceeded", "userRateLimitExceeded"),
        ),
        (429, 503),
        StoreBusyError,
        "it asks to slow down; read with fewer processes at once",
    ),
    (
        (),
        (416,),
        StoreFaultError,
        "the object ends before that range: it is truncated, or belongs to another index; upload it again",
    ),
    (
        ("RequestTimeout", "IncompleteBody", "InternalError", "OperationAborted", "OperationTimedOut"),
        _FAULTS,
        StoreFaultError,
        "the store failed",
    ),
    (
        _REGION,
        (301, 307),
        StoreError,
        "the bucket is in another region than the client is set to: set AWS_REGION to the bucket's",
    ),
)
_OTHER = "which another try would not change; look the code up in the store's documentation"

# Words of obstore's dump of what failed below HTTP, and ours for them; {server} is where the request went.
_CAUSES = (
    ("timedout", "{server} did not answer in time"),
    ("kind: timeout", "{server} did not answer in time"),
    ("timed out", "{server} did not answer in time"),
    ("connectionrefused", "the connection to {server} was refused"),
    ("dns error", "the host name of {server} was not found"),
    ("certificate", "the TLS certificate of {server} was not accepted"),
    ("connectionreset", "the connection to {server} was reset"),
    ("brokenpipe", "the connection to {server} was reset"),
    ("incompletemessage", "the connection was closed before the answer"),
    ("incompletebody", "the connection was closed before the end of the body"),
    ("unexpectedeof", "the connection was closed before the end of the body"),
    ("content-length header missing", "the answer does not say how long it is"),
    ("content-range", "the answer does not say which range it is"),
    ("received non-partial response", "it sent the whole object when a range was asked for"),
    ("requested ", "it sent another range than was asked for"),
    ("invalid last modified", "the answer has a date that is none"),
    ("kind: connect,", "no connection to {server} could be made"),
    ("parse(", "what answered at {server} does not speak HTTP"),
    ("builder error", "the client does not accept the URL, or what a proxy variable says"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, for the words of an error.

    Args:
        act: "read", "look at", "write", "list", "remove".
        place: URL of the object or directory, without credentials.
        begin: first byte of the range that was asked for.
        end: its end, None for the end of the object.
        signed: whether credentials were found to sign it with.
        access: how this kind of store is given credentials, in words to type.
        version: of the object, if it had to be that one.
    """

    act: str
    place: str
    begin: int = 0
    end: int | None = None
    signed: bool = True
    access: str = ""
    version: str | None = None


def explain(error: BaseException, request: Request) -> StoreError:
    """Return what an exception of obstore means; the caller raises it `from None`."""
    text, _, dump = str(error).partition(_DUMP)
    kind = type(error).__name__
    status = int(found[1]) if (found := _STATUS.search(text)) else _STATUS_OF.get(kind, 0)
    code = _code_in(text)
    failed = _failed(request)
    refused = "400 and no reason, as where credentials have expired" if _MUTE.search(text) else ""
    if "token request" in text and status not in (429, *_FAULTS, 503):
        refused = "no credentials were found"
    if refused:
        return StoreAccessError(f"{failed}: {refused}; {request.access}")
    if kind in ("NotSupportedError", "NotImplementedError"):
        if "Range request" in text:
            return NoRangesError(f"{failed}: the server sends whole objects only, no ranges")
        return StoreError(f"{failed}: this kind of store cannot do that")
    if "redirect without LOCATION" in text:
        status, code = 301, _REGION[0]
    if status or code:
        return refusal(status, code, request, pays=_PAYS.search(_ADDRESS.sub("", text)) is not None)
    if isinstance(error, (ValueError, TypeError)) or kind == "InvalidPathError":
        return StoreError(f"{failed}: {' '.join(redact(text).split())[:200]}")  # about our arguments: no answer in it
    return StoreFaultError(f"{failed}: {_cause(text + dump)}")


def refusal(status: int, code: str, request: Request, *, pays: bool = False) -> StoreError:
    """Return the error for an answer of the store.

    Args:
        status: of HTTP.
        code: the store's own, "" if it gave none.
        request: what was asked.
        pays: whether the store speaks of the requester who pays.
    """
    rules = (rule for rule in _RULES if code in rule[0] or status in rule[1])
    _, _, kind, words = next(rules, ((), (), StoreError, _OTHER))
    refused = "the store does not accept the credentials, or they may not do this"
    if not request.signed:
        refused = "no credentials were found, so it was asked for without, and it is not public"
    said = " ".join(str(part) for part in (status, code) if part)
    meant = words.format(access=request.access, refused=refused, version=request.version)
    if pays and kind is StoreAccessError and request.place.startswith("s3://"):
        meant += "; if the requester pays for this bucket, name it in MOSAICML_STREAMING_AWS_REQUESTER_PAYS"
    return kind(f"{_failed(request)}: {said}, {meant}")


def wants_other_region(error: BaseException) -> bool:
    """Return whether an exception of obstore says, or may mean, that the bucket is in another region."""
    text = str(error).partition(_DUMP)[0]
    return "redirect without LOCATION" in text or _code_in(text) in _REGION or _MUTE.search(text) is not None


_STATUS_OF = {
    "FileNotFoundError": 404, "NotFoundError": 404, "PermissionDeniedError": 403, "PermissionError": 403,
    "UnauthenticatedError": 401, "PreconditionError": 412,
}  # fmt: skip


def _code_in(text: str) -> str:
    return next(filter(None, found.groups()), "") if (found := _CODE.search(text)) else ""


def _failed(request: Request) -> str:
    end = "the end" if request.end is None else request.end
    part = f" (bytes {request.begin} to {end})" if request.begin or request.end is not None else ""
    return f"{request.place}{part}: could not {request.act} it"


def _cause(text: str) -> str:
    low = _ADDRESS.sub("", text).lower()  # names of hosts and objects are no words of the client's
    words = next((ours for theirs, ours in _CAUSES if theirs in low), "the request failed before {server} answered")
    # No more of the address than the host: the rest may be signed.
    server = f"{found[1]}{found[2]}" if (found := _ENDPOINT.search(text)) else "the store"
    return words.format(server=server)
