"""Credentials taken out of URLs, and of any text that people may read.

- `place_of` returns the place that one URL names. Directories of caches, names of domains and records are made of it,
  so what it returns for a URL never changes.
- `redact` takes out of a text whatever looks like a credential, also of what is not quite a URL. What it cannot tell
  from a credential, it takes out as well: a text that says too little can be asked about, a password cannot be unsaid.

Both take time linear in the text.
"""

import re
from urllib.parse import unquote

from mixstream.lazy import pattern

# In these, the part before the @ is a container, not a user.
_CONTAINER_SCHEMES = ("az", "azure", "azure-dl", "abfs", "abfss", "wasb", "wasbs")
NETWORK = (
    "https?|ftps?|s3[an]?|gs|gcs|az|azure|azure-dl|abfss?|wasbs?|adl|hf|sftp|scp|ssh|smb|webhdfs|hdfs|oci|oss|github|"
    "webdavs?|davs?"
)
"""Schemes that are followed by two slashes and a host, as a pattern."""

_HOST = pattern(r"[^:\[\]]*(:\d*)?|\[[^\[\]]*\](:\d*)?")
_URL = pattern(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,40})://(?P<host>[^\s"'<>`/?#]*)(?P<path>[^\s"'<>`?#]*)[^\s"'<>`]*"""
)
_SLASH = r"(?:[/\\\u2044\u2215\uff0f\uff3c]|%2f|%5c)"
_AT = pattern(r"@|\uff20|\ufe6b|%(?:25)*40", re.IGNORECASE)
_COLON = r"(?::|\uff1a|%(?:25)*3a)"
# A scheme and a colon, or two slashes. What comes next may be a user.
_BEGIN = pattern(
    rf"(?<![A-Za-z0-9+.-])(?:(?:{NETWORK}){_COLON}{_SLASH}*|[A-Za-z][A-Za-z0-9+.-]*{_COLON}{_SLASH}+)"
    rf"|(?<![:/\w\\%]){_SLASH}{{2}}",
    re.IGNORECASE,
)
_PORT = r"\d{0,5}(?:[/?#]|\Z)|\d{1,5}[\\\s\"'<>`]"
_USER = pattern(rf"[^\s/?#]{{0,200}}?{_COLON}(?!{_PORT})", re.IGNORECASE)
_LONGEST = 512  # characters of a user and password
_BLANKS = 2  # in a password, before an @; a sentence has more
_AFTER = pattern(r"(?<=//\*\*\*)[\s\"'<>`][^\s@]{0,200}@")  # the end of a password that a quote or blank has cut
_AT_SIGN = rf"(?:{_AT.pattern})"
# user:password@host without a scheme, as scp, rsync and registries write it: a slash is in the password only if a colon
# and a path follow the host. What begins with a quote or slash is none: text in code, a path, or what is shown.
_ALONE = pattern(
    rf"(?<![\w.%+-])[\w.%+-]{{1,64}}?{_COLON}(?![\s/\\\"'`<>]|(?:[\w.-]{{1,64}}:){{0,3}}\*\*\*@)"
    rf"(?:[^\s/\\]{{1,200}}{_AT_SIGN}|[^\s\\]{{1,200}}{_AT_SIGN}(?=[\w.-]+:/))",
    re.IGNORECASE,
)
_ORACLE = pattern(rf"(?<=:)[^\s/:]{{1,64}}/[^\s@]{{1,200}}{_AT_SIGN}")
_PATH = pattern(r"[^\s\"'<>`?#]*")
_QUERY = pattern(r"[?#][^\s\"'<>`]*")

# Names of secrets: those that mean nothing else, and those that do so in queries only.
_NAMES = (
    r"(?:aws[_-]?)?secret[_-]?(?:access[_-]?)?key|client[_-]?secret|secret|(?:aws[_-]?)?access[_-]?key(?:[_-]?id)?|"
    r"account[_-]?key|shared[_-]?access[_-]?(?:key|signature)|sas[_-]?token|connection[_-]?string|"
    r"(?:aws[_-]?)?session[_-]?token|(?:access|refresh|id|auth|bearer|security)[_-]?token|api[_-]?key|"
    r"private[_-]?key(?:[_-]?id)?|pass(?:word|wd|phrase)|pwd|x-(?:amz|goog|ms|oss)-(?:signature|credential|security-token)|"
    r"googleaccessid|authorization|proxy-authorization|x-api-key|set-cookie|cookie|j?sessionid|phpsessid"
)
_IN_QUERY = (
    r"sig|signature|token|key|auth|hmac|hdne?a|hdnts|policy|key-pair-id|se|sp|skoid|sktid|ticket|jwt|code|credential|"
    r"sid"
)
_VALUE = r"""(?P<value>\"[^\"]*\"?|'[^']*'?|[^\s&\"'<>`,;)}\]]+)"""
_HEADER = r"(?:proxy-)?authorization|x-amz-[a-z-]+|x-api-key|(?:set-)?cookie"
_PAIR = pattern(
    rf"""(?P<name>(?<![A-Za-z0-9])(?:(?:{_NAMES})(?:[\"']\s*[:=]|\s*(?:=|%3d))|(?:{_HEADER})\s*:)\s*"""
    rf"(?:(?:basic|bearer|aws4-hmac-sha256)\s+)?){_VALUE}",
    re.IGNORECASE,
)
_QUERY_PAIR = pattern(
    rf"(?P<name>(?:[?&;]|%26|%3f)(?:{_NAMES}|{_IN_QUERY})(?:=|%3d))(?P<value>[^\s&\"'<>`]+)", re.IGNORECASE
)
_KNOWN = pattern(
    r"\b(?:A[KS]IA[A-Z0-9]{16}|hf_[A-Za-z0-9]{30,}|gh[opsu]_[A-Za-z0-9]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_SUSPICIOUS = pattern(rf"=|{_COLON}|%3d|{_SLASH}{{2}}|{_KNOWN.pattern}", re.IGNORECASE)
# One of these is in whatever the patterns above, or those of a URL, find in a text of ASCII.
_MARKS = ("=", ":", "%", "\\", "//")
_TOKENS = ("akia", "asia", "hf_", "gho_", "ghp_", "ghs_", "ghu_", "eyj")


def is_plain(text: str) -> bool:
    """Return whether a text is neither a URL nor has a credential in it, by a look at its characters.

    Most paths are plain. To compile the patterns that judge all other texts takes several milliseconds.

    >>> is_plain("/data/web-2.1"), is_plain("me:secret@host"), is_plain("/data/asia")
    (True, False, False)
    """
    if not text.isascii() or any(map(text.__contains__, _MARKS)):
        return False
    return not any(map(text.lower().__contains__, _TOKENS))


def place_of(url: str) -> str:
    """Return the place that a URL names: without user, query and fragment, which may hold credentials.

    A path is returned as it is. What this returns is part of the names of caches and of domains, so it never changes.

    >>> place_of("https://me:secret@host/web?sig=secret"), place_of("/data/web")
    ('https://host/web', '/data/web')
    """
    if is_plain(url) or _BEGIN.match(url) is None:
        return url
    if re.search(r"[\x00-\x1f]", url):  # which clients take out, wherever they are
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    return _AFTER.sub("", _URL.sub(_bare, _without_users(url)))


def redact(text: str) -> str:
    """Return `text` without whatever in it looks like a credential, for people to read.

    >>> redact("could not read https://me:secret@host/web?sig=secret: 404")
    'could not read https://host/web 404'
    >>> redact("http:/me:secret@host/web"), redact("{'api_key': 'secret', 'anon': False}")
    ('http:/***@host/web', "{'api_key': ***, 'anon': False}")
    """
    if is_plain(text) or not _SUSPICIOUS.search(text):
        return text
    text = _without_users(text)
    text = _AFTER.sub("", _URL.sub(_bare, text))
    text = _without_queries(text)
    text = _ALONE.sub("***@", text)
    if "jdbc:" in text.lower():
        text = _ORACLE.sub("***@", text)
    for pairs in (_QUERY_PAIR, _PAIR):
        text = pairs.sub(lambda found: f"{found['name']}***", text)
    return _KNOWN.sub("***", text)


def redact_with(text: str, url: str) -> str:
    """Return `text`, of a library that was given `url`, without credentials and without any piece of those of `url`."""
    parts = re.split(r"[:@/?#&=;\s]", url) if redact(url) != url else []
    shown = set(re.split(r"[:@/?#&=;\s]", redact(url)))
    for part in sorted({*parts, *map(unquote, parts)} - shown, key=len, reverse=True):
        if len(part) > 2:
            text = text.replace(part, "***")
    return redact(text)


def _bare(found: re.Match[str]) -> str:
    scheme, host, path = found["scheme"], found["host"], found["path"]
    if (encoded := re.search(r".*%(25)*40", host)) is not None:
        host = f"@{host[encoded.end() :]}"
    if "@" in host and (scheme.lower() not in _CONTAINER_SCHEMES or ":" in host.rpartition("@")[0]):
        host = host.rpartition("@")[2]
    if not _HOST.fullmatch(host):  # a password with a slash, a question mark or a hash in it, so it ends later
        before, cut, after = path.rpartition("@")
        host, path = ("", after) if cut and before else ("***", "")
    return f"{scheme}://{host}{path}"


def _without_users(text: str) -> str:
    """Return a text without users and passwords, wherever something may be the beginning of a URL."""
    kept, at = [], 0
    while (begin := _BEGIN.search(text, at)) is not None:
        kept.append(text[at : begin.end()])
        at = begin.end()
        if end := _user_in(text[at : at + _LONGEST], begin[0]):
            kept.append("" if begin[0].endswith("://") and not begin[0].endswith(":///") else "***@")
            at += end
    return "".join([*kept, text[at:]])


def _user_in(window: str, begin: str) -> int:
    """Return how many characters a user has, its @ included; 0 if there is none."""
    window = window.partition("://")[0]
    found = _USER.match(window)
    if found is None:  # there may be one without a password; where the scheme is whole, `_bare` knows
        alone = re.match(r"[^\s/\\?#\"'<>`]*(?:@|\uff20|%(?:25)*40)", window, re.IGNORECASE)
        return 0 if alone is None or begin.endswith("//") else alone.end()
    end = 0
    for at in _AT.finditer(window, found.end()):
        between = window[max(end, found.end()) : at.start()]
        if len(re.findall(r"[ \t]+", between)) > (_BLANKS if not end else 0) or (end and re.search(r"[\s/]", between)):
            break
        if begin.endswith("://") and re.search(r"[?#]", window[found.end() : at.start()]):
            break  # `_bare` knows what may be shown of it
        end = at.end()
    return end


def _without_queries(text: str) -> str:
    """Return a text without the queries of what may be a URL."""
    kept, at = [], 0
    while (begin := _BEGIN.search(text, at)) is not None:
        path = _PATH.match(text, begin.end())
        assert path is not None, "it may be empty"
        kept.append(text[at : path.end()])
        query = _QUERY.match(text, path.end())
        at = query.end() if query is not None else path.end()
    return "".join([*kept, text[at:]])
