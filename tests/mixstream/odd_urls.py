"""URLs with a secret in them, well-formed and not, and what may come of them."""

from __future__ import annotations

import itertools
import traceback
from urllib.parse import quote

SECRET = "S3CRETW0RD"

_BEGINS = (
    "http://", "https://", "HTTPS://", "Http:/", "http:", "http:\\\\", "https:\\", "https:///", "http:%2F%2F",
    "s3://", "s3:/", "S3:", "gs://", "az://", "abfss://", "hf://", "hf:/", "sftp://", "memory://", "nosuch://", "//",
    " http://", "\thttp://", "\nhttp://", "http: //", "simplecache::http://", "file://",
)  # fmt: skip
_USERS = (
    "u:{}@", "{}:p@", "u:{}%40x@", "u%3A{}%40", "u:{}@x@", "u:x@{}@", ":{}@", "u:1{}@", "u:{}/x@", "u:x/{}@", "u:é{}@",
    "u:a\n{}@", "u:{}\n@", "u:a {}@", "u:{} @", "u:a\t{}@", "u:'{}@", 'u:a"{}@', "u:a<{}@", "u:{}\\@", "u:{}%2540",
)  # fmt: skip
_QUERIES = (
    "sig={}", "x=1&X-Amz-Signature={}", "X-Amz-Security-Token={}", "X-Amz-Credential={}%2F2026",
    "token={}",
    "se=1&sig={}",
    "AWSAccessKeyId={}&Expires=1", "Signature={}", "access_token={}", "GoogleAccessId={}", "x-goog-signature={}",
    "password={}", "api_key={}", "API-KEY={}", "client_secret={}", "u=http://u:{}@h/", "next=http%3A%2F%2Fu%3A{}%40h",
    "{}", "a=1;sig={}", "a=1\n&sig={}", "?sig={}",
)  # fmt: skip
_HOST = "127.0.0.1:9/dir/web"  # a port that nobody listens at


_NO_URLS = (
    "", "jdbc:mysql://", "http%3A//", "http%3a%2F%2F", "http%253A//", "http\uff1a//", "http\uff1a\uff0f\uff0f",
    "https//", "rsync:", "web=", "scp ", "'", "(", "could not read ",
)  # fmt: skip
_ALONE = (
    "u:{}@", "u\uff1a{}@", "u%3A{}@", "u:{}\uff20", "u:{}%40", "u:x@{}@", "u.v:{}@", "u:*{}@", "u:{}:y@", "\xfc:{}@",
    "D\\u:{}@", "u v:{}@",
)  # fmt: skip


def no_urls() -> list[str]:
    """Return texts that are no URLs of any scheme and hold `SECRET`: for scp, with other colons, of JDBC, encoded."""
    ends = ("h:/d", "h/d", "h.com", "[::1]:/d", "h:22/d")
    return [
        *(begin + user.format(SECRET) + end for begin, user, end in itertools.product(_NO_URLS, _ALONE, ends)),
        *(f"{begin}u:x/{SECRET}@h:/d" for begin in _NO_URLS),
        f"jdbc:oracle:thin:u/{SECRET}@h:1521/x",
        f"jdbc:sqlserver://h;user=u;password={SECRET}",
        *(f"{begin}h/d;{name}={SECRET}" for begin in ("http://", "s3://", "") for name in _SESSIONS),
        *(f"http://h/d;{name}={SECRET}/e" for name in _SESSIONS),
    ]


_SESSIONS = ("jsessionid", "JSESSIONID", "PHPSESSID", "sid", "sessionid", "token", "v=1;sig")


def odd_urls() -> list[str]:
    """Return URLs that hold `SECRET`; more than 500."""
    users = [begin + user.format(SECRET) + _HOST for begin, user in itertools.product(_BEGINS, _USERS)]
    queries = [f"{begin}{_HOST}?{query.format(SECRET)}" for begin in _BEGINS[:12] for query in _QUERIES]
    fragments = [f"{begin}{_HOST}#{query.format(SECRET)}" for begin in _BEGINS[:4] for query in _QUERIES[:8]]
    both = [f"{begin}me:{SECRET}@{_HOST}?{query.format(SECRET)}" for begin in _BEGINS[:8] for query in _QUERIES[:4]]
    nested = [f"http://{_HOST}?to={quote(url, safe='')}" for url in users[:12]]
    return list(dict.fromkeys([*users, *queries, *fragments, *both, *nested]))


def said(error: BaseException) -> str:
    """Return all that a user may see of an exception: message, notes, arguments, and those of its causes."""
    parts, seen, more = [], set[int](), [error]
    while more:
        one = more.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        parts += [str(one), repr(one), repr(one.args), *getattr(one, "__notes__", [])]
        parts.append(str(getattr(one, "filename", "") or ""))
        context = None if one.__suppress_context__ else one.__context__
        more += [each for each in (one.__cause__, context) if each is not None]
    return "\n".join([*parts, *traceback.format_exception_only(error)])
