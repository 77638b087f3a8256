"""Connections for HTTP, made as the environment says: through proxies, and with certificates that are trusted.

Rules. `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` hold as for curl; `NO_PROXY` may name networks, as
10.0.0.0/8. Trusted are the certificates of the system (`SSL_CERT_FILE`, `SSL_CERT_DIR`), those of botocore where the
system has none, as Python on macOS, and those that are given. The kernel asks an idle peer for a sign of life, since
what lies between may forget a connection, and the next request would wait for its whole timeout.
"""

import os
import socket
import ssl
from contextlib import suppress
from dataclasses import field
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import (
    getproxies_environment,
    proxy_bypass_environment,  # pyright: ignore[reportAttributeAccessIssue] - is public, and documented
)

import urllib3
from urllib3.util import parse_url

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.storage.stores.timed_connections import timed

_CONNECTIONS = 32  # kept open to one host
_ALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPALIVE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))  # seconds; times
_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _ALIVE if hasattr(socket, name)),
]


@dataclass(eq=False, kw_only=True)
class Connections:
    """Pools of connections, by proxy. Safe to use from any thread.

    Args:
        authorities: certificates to trust besides the system's, PEM.
    """

    authorities: bytes | None = None
    _pools: dict[tuple[str, bool], urllib3.PoolManager] = field(default_factory=dict, init=False)

    def pool(self, scheme: str, host: str, port: int) -> urllib3.PoolManager:
        """Return the pool for a server; behind a proxy, if the environment sets one for it.

        Raises:
            ConfigError: the proxy is of a kind that is not supported, or its URL is none.
        """
        proxy = proxy_of(scheme, host, port)
        key = proxy, scheme == "https" or proxy.lower().startswith("https:")
        if (pool := self._pools.get(key)) is None:
            pool = self._pools.setdefault(key, self._make(*key))
        return pool

    def _make(self, proxy: str, secure: bool) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": 8, "maxsize": _CONNECTIONS, "socket_options": _OPTIONS}
        if secure:  # reading the system's certificates takes a tenth of a second
            options["ssl_context"] = self._tls
        if not proxy:
            return timed(urllib3.PoolManager(**options))
        parts = _checked(proxy)
        netloc = parts.netloc.rpartition("@")[2]
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if "@" in parts.netloc else None
        secret = urllib3.make_headers(proxy_basic_auth=user) if user else None
        return timed(urllib3.ProxyManager(f"{parts.scheme}://{netloc}", proxy_headers=secret, **options))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not _system_has_certificates():
            from botocore.httpsession import get_cert_path

            context.load_verify_locations(cafile=get_cert_path(True))
        if self.authorities is not None:
            context.load_verify_locations(cadata=self.authorities.decode("ascii", "ignore"))
        return context


def proxy_of(scheme: str, host: str, port: int) -> str:
    """Return the proxy that the environment sets for a server; "" if it sets none."""
    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    return "" if proxy and _is_excepted(host, port, proxies) else proxy


def _is_excepted(host: str, port: int, proxies: dict[str, str]) -> bool:
    """Return whether `NO_PROXY` names a server: by name, domain, address or network."""
    if proxy_bypass_environment(host if ":" in host else f"{host}:{port}", proxies):
        return True
    with suppress(ValueError):
        address = ip_address(host)
        for entry in proxies.get("no", "").split(","):
            with suppress(ValueError):
                if address in ip_network(entry.strip().strip("[]"), strict=False):
                    return True
    return False


def _checked(proxy: str) -> SplitResult:
    """Return the parts of a proxy's URL; raise ConfigError if it is none that can be used."""
    remedy = "set HTTPS_PROXY, HTTP_PROXY or ALL_PROXY to http://HOST:PORT, or name the store's host in NO_PROXY"
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, _, _ = parts.hostname, parts.port, parse_url(f"http://{parts.netloc.rpartition('@')[2]}")
    except ValueError:  # of urllib3 too
        host, parts = None, urlsplit("")
    if not host:
        raise ConfigError(f"the proxy that the environment sets has a URL that is none; {remedy}")
    if parts.scheme.lower() not in ("http", "https"):
        raise ConfigError(
            f"the proxy that the environment sets, {parts.scheme}://{host}, is of a kind that is not "
            f"supported; {remedy}"
        )
    return parts


def _system_has_certificates() -> bool:
    """Return whether there are certificates where Python looks for them; a place that the user names counts as such."""
    paths = ssl.get_default_verify_paths()
    if {paths.openssl_cafile_env, paths.openssl_capath_env} & os.environ.keys() or paths.cafile is not None:
        return True
    with suppress(OSError):
        return paths.capath is not None and any(Path(paths.capath).iterdir())
    return False
