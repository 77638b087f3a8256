"""Exceptions of store clients, turned into errors of `mixstream.errors`.

What lives here: the reading of texts and status codes, no requests. Rules: an error's text is written here; of the
store's answer it holds the status and the code (`SlowDown`, `ExpiredToken`), never its prose, a header, or the client's
dump of the request, since those may contain signatures and credentials. obstore gives the status of a refusal in its
text only, hence the patterns.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
https://cloud.google.com/storage/docs/xml-api/reference-status,
https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-error-codes
"""

import re

from mixstream import errors
from mixstream.records import dataclass
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

# The codes and the statuses of a refusal, our error for it, and its text; the first rule with the code applies, else
# the first with the status.
_RULES: tuple[tuple[tuple[str, ...], tuple[int, ...], type[errors.StoreError], str], ...] = (
    (("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"), (),
     errors.StoreAccessError, "the credentials have expired; {access}"),
    (("RequestTimeTooSkewed",), (),
     errors.StoreAccessError, "the clocks disagree: set this machine's clock (chronyc makestep)"),
    (("InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidAuthenticationInfo"), (401, 403, 407),
     errors.StoreAccessError, "{refused}; {access}"),
    (("NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "InvalidResourceName"), (),
     errors.StoreNotFoundError, "not found: there is no such bucket or container: check the URL's spelling"),
    ((), (404,),
     errors.StoreNotFoundError, "not found: there is no such object: check `remote` and `split`, or upload it again"),
    ((), (412,), errors.StoreChangedError,
     "the object was replaced (its version was {version}): do not replace objects while they are read"),
    (("SlowDown", "ServerBusy", "TooManyRequests", "Throttling", "ThrottlingException", "RequestThrottled",
      "RequestLimitExceeded", "BandwidthLimitExceeded", "rateLimitExceeded", "userRateLimitExceeded"), (429, 503),
     errors.StoreBusyError, "it asks to slow down; read with fewer processes at once"),
    ((), (416,), errors.StoreFaultError,
     "the object ends before that range: it is truncated, or belongs to another index; upload it again"),
    (("RequestTimeout", "IncompleteBody", "InternalError", "OperationAborted", "OperationTimedOut"), _FAULTS,
     errors.StoreFaultError, "the store failed"),
    (_REGION, (301, 307), errors.StoreError,
     "the bucket is in another region than the client is set to: set AWS_REGION to the bucket's"),
)  # fmt: skip
_OTHER = "which another try would not change; look the code up in the store's documentation"

# Words in obstore's dump of a failure below HTTP, and our text for it; {server} is where the request went.
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
    ("content-length header missing", "the answer has no length"),
    ("content-range", "the answer does not name its range"),
    ("received non-partial response", "it sent the whole object when a range was requested"),
    ("requested ", "it sent another range than was requested"),
    ("invalid last modified", "the answer has an invalid date"),
    ("kind: connect,", "no connection to {server} could be made"),
    ("parse(", "the server at {server} does not speak HTTP"),
    ("builder error", "the client does not accept the URL, or the value of a proxy variable"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What was requested of a store, for the text of an error.

    Args:
        act: "read", "look at", "write", "list", "remove".
        place: URL of the object or directory, without credentials.
        begin: first byte of the requested range.
        end: its end, None for the end of the object.
        signed: whether credentials were found to sign it with.
        access: how to give credentials to this kind of store, in words to type.
        version: that the object had to have; None for any.
    """

    act: str
    place: str
    begin: int = 0
    end: int | None = None
    signed: bool = True
    access: str = ""
    version: str | None = None


def explain(error: BaseException, operation: Operation) -> errors.StoreError:
    """Return the error for an exception of obstore; the caller raises it `from None`."""
    text, _, dump = str(error).partition(_DUMP)
    kind = type(error).__name__
    status = int(found[1]) if (found := _STATUS.search(text)) else _STATUS_OF.get(kind, 0)
    code = code_in(text)
    what = failed(operation)
    refused = "400 and no reason, as where credentials have expired" if _MUTE.search(text) else ""
    if "token request" in text and status not in (429, *_FAULTS, 503):
        refused = "no credentials were found"
    if refused:
        return errors.StoreAccessError(f"{what}: {refused}; {operation.access}")
    if kind in ("NotSupportedError", "NotImplementedError"):
        if "Range request" in text:
            return errors.NoRangesError(f"{what}: the server sends whole objects only, no ranges")
        return errors.StoreError(f"{what}: this kind of store cannot do that")
    if "redirect without LOCATION" in text:
        status, code = 301, _REGION[0]
    if status or code:
        return refusal(status, code, operation, pays=_PAYS.search(_ADDRESS.sub("", text)) is not None)
    if isinstance(error, (ValueError, TypeError)) or kind == "InvalidPathError":
        # This text is about our arguments, not an answer.
        return errors.StoreError(f"{what}: {' '.join(redact(text).split())[:200]}")
    return errors.StoreFaultError(f"{what}: {_cause(text + dump)}")


def refusal(status: int, code: str, operation: Operation, *, pays: bool = False) -> errors.StoreError:
    """Return the error for an answer of the store.

    Args:
        status: of HTTP.
        code: the store's own, "" if it gave none.
        operation: what was requested.
        pays: whether the answer mentions that the requester pays.
    """
    # A code says more than a status: Google's 403 with rateLimitExceeded asks to slow down.
    rules = (*(rule for rule in _RULES if code in rule[0]), *(rule for rule in _RULES if status in rule[1]))
    _, _, kind, words = next(iter(rules), ((), (), errors.StoreError, _OTHER))
    refused = "the store does not accept the credentials, or they do not permit this"
    if not operation.signed:
        refused = "no credentials were found, so the request was not signed, and the object is not public"
    said = " ".join(str(part) for part in (status, code) if part)
    meant = words.format(access=operation.access, refused=refused, version=operation.version)
    if pays and kind is errors.StoreAccessError and operation.place.startswith("s3://"):
        meant += "; if the requester pays for this bucket, name it in MOSAICML_STREAMING_AWS_REQUESTER_PAYS"
    return kind(f"{failed(operation)}: {said}, {meant}")


def refused_answer(status: int, words: str, operation: Operation, *, has_body: bool = True) -> errors.StoreError:
    """Return the error for the status of an answer, and the beginning of its body, which stays here."""
    if status == 400 and not has_body:
        return errors.StoreAccessError(
            f"{failed(operation)}: 400 and no reason, as where credentials have expired; {operation.access}"
        )
    return refusal(status, code_in(words), operation, pays=_PAYS.search(_ADDRESS.sub("", words)) is not None)


def is_of_other_region(code: str) -> bool:
    """Return whether a code of S3 means that the bucket is in another region."""
    return code in _REGION


def wants_other_region(error: BaseException) -> bool:
    """Return whether an exception of obstore means, or may mean, that the bucket is in another region."""
    text = str(error).partition(_DUMP)[0]
    return "redirect without LOCATION" in text or code_in(text) in _REGION or _MUTE.search(text) is not None


_STATUS_OF = {
    "FileNotFoundError": 404, "NotFoundError": 404, "PermissionDeniedError": 403, "PermissionError": 403,
    "UnauthenticatedError": 401, "PreconditionError": 412,
}  # fmt: skip


def code_in(text: str) -> str:
    """Return the store's own code of an error, as `SlowDown`; "" if its words have none."""
    return next(filter(None, found.groups()), "") if (found := _CODE.search(text)) else ""


def failed(operation: Operation) -> str:
    """Return what could not be done, to begin an error with."""
    end = "the end" if operation.end is None else operation.end
    part = f" (bytes {operation.begin} to {end})" if operation.begin or operation.end is not None else ""
    return f"{redact(operation.place)}{part}: could not {operation.act} it"


def _cause(text: str) -> str:
    low = _ADDRESS.sub("", text).lower()  # without the names of hosts and objects
    words = next((ours for theirs, ours in _CAUSES if theirs in low), "the request failed before {server} answered")
    # Only the host of the address: the rest may be signed.
    server = f"{found[1]}{found[2]}" if (found := _ENDPOINT.search(text)) else "the store"
    return words.format(server=server)
