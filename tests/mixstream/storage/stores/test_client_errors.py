"""What the exceptions and answers of stores become: kinds of errors on which it depends whether another try is made."""

from __future__ import annotations

import pytest

from mixstream import errors
from mixstream.storage.stores.client_errors import Operation, explain, refusal, refused_answer, wants_other_region

READ = Operation(act="read", place="s3://bucket/a", begin=3, end=9, access="set AWS_PROFILE", version="v1")


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", errors.StoreAccessError, "do not permit this; set AWS_PROFILE"),
        (400, "ExpiredToken", errors.StoreAccessError, "expired"),
        (403, "RequestTimeTooSkewed", errors.StoreAccessError, "clock"),
        (403, "rateLimitExceeded", errors.StoreBusyError, "slow down"),
        (403, "userRateLimitExceeded", errors.StoreBusyError, "slow down"),
        (400, "RequestTimeout", errors.StoreFaultError, "the store failed"),
        (409, "OperationAborted", errors.StoreFaultError, "the store failed"),
        (503, "SlowDown", errors.StoreBusyError, "slow down"),
        (503, "", errors.StoreBusyError, "slow down"),
        (429, "", errors.StoreBusyError, "slow down"),
        (404, "NoSuchBucket", errors.StoreNotFoundError, "no such bucket"),
        (404, "NoSuchKey", errors.StoreNotFoundError, "no such object"),
        (412, "", errors.StoreChangedError, r"its version was v1"),
        (416, "", errors.StoreFaultError, "ends before that range"),
        (500, "", errors.StoreFaultError, "the store failed"),
        (408, "", errors.StoreFaultError, "the store failed"),
        (501, "NotImplemented", errors.StoreError, "another try would not change"),
        (505, "", errors.StoreError, "another try would not change"),
        (409, "", errors.StoreError, "another try would not change"),
        (301, "PermanentRedirect", errors.StoreError, "AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", errors.StoreError, "AWS_REGION"),
    ],
)
def test_a_refusal_is_of_the_kind_that_its_code_says_or_else_its_status(
    status: int, code: str, kind: type[errors.StoreError], words: str
) -> None:
    for made in (
        refusal(status, code, READ),
        refused_answer(status, f"<Error><Code>{code}</Code></Error>", READ),
        refused_answer(status, f'{{"error": {{"errors": [{{"reason": "{code}"}}], "code": {status}}}}}', READ),
        explain(
            OSError(f'status code: {status} <Code>{code}</Code>\n\nDebug source:\n"<Code>ExpiredToken</Code>"'), READ
        ),
    ):
        assert type(made) is kind
        assert words in str(made)
        assert str(made).startswith(f"s3://bucket/a (bytes 3 to 9): could not read it: {f'{status} {code}'.strip()}, ")


class NotSupportedError(Exception):
    """As obstore names it."""


class InvalidPathError(Exception):
    """As obstore names it."""


class PermissionDeniedError(Exception):
    """As obstore names it."""


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (NotSupportedError("Range request not supported"), errors.NoRangesError, "whole objects only, no ranges"),
        (NotImplementedError("listing"), errors.StoreError, "this kind of store cannot do that"),
        (OSError("Received redirect without LOCATION, so"), errors.StoreError, "another region"),
        (OSError("performing HEAD https://h/a: status code: 400"), errors.StoreAccessError, "expired; set AWS_PROFILE"),
        (OSError("token request failed: status code: 403"), errors.StoreAccessError, "no credentials were found"),
        (OSError("token request failed: status code: 503"), errors.StoreBusyError, "slow down"),
        (PermissionDeniedError("it was refused"), errors.StoreAccessError, "403"),
        (ValueError("key has\n no value"), errors.StoreError, "key has no value"),
        (InvalidPathError("a//b is empty"), errors.StoreError, "a//b is empty"),
        (OSError("performing GET https://h/a?sig=x: timed out"), errors.StoreFaultError, "https://h did not answer in"),
        (OSError("performing GET https://u:secret@h/a: dns error"), errors.StoreFaultError, "https://h was not found"),
        (OSError("what nobody knows"), errors.StoreFaultError, "failed before the store answered"),
    ],
)  # fmt: skip
def test_what_a_client_raises_becomes_our_error(error: Exception, kind: type[errors.StoreError], words: str) -> None:
    made = explain(error, READ)
    assert type(made) is kind
    assert words in str(made)
    assert "sig=" not in str(made)
    assert "secret" not in str(made)


def test_a_refusal_without_credentials_says_so_and_names_who_pays() -> None:
    unsigned = Operation(act="read", place="s3://bucket/a", signed=False, access="set AWS_PROFILE")
    assert "no credentials were found, so the request was not signed" in str(refusal(403, "", unsigned))
    assert "REQUESTER_PAYS" in str(refused_answer(403, "the request payer must pay: request-payer", unsigned))
    assert "REQUESTER_PAYS" not in str(refused_answer(404, "request-payer", unsigned))
    assert type(refused_answer(400, "", READ, has_body=False)) is errors.StoreAccessError
    assert type(refused_answer(400, "", READ)) is errors.StoreError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Received redirect without LOCATION", True),
        ("status code: 301 <Code>PermanentRedirect</Code>", True),
        ("performing HEAD https://h/a: status code: 400", True),
        ("performing GET https://h/a: status code: 400", False),
        ("status code: 404\n\nDebug source:\n<Code>PermanentRedirect</Code>", False),
    ],
)
def test_another_region_is_looked_for_where_the_answer_may_mean_it(text: str, expected: bool) -> None:
    assert wants_other_region(OSError(text)) == expected
