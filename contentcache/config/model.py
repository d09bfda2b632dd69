"""
A configuration, read and checked: frozen values that the rest of the house takes.

Times are seconds, sizes are bytes, ``None`` means "without bound" or "not given".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

Level = Literal["error", "warn", "info", "debug"]
ClientAuth = Literal[
    "request-client-cert",
    "require-any-client-cert",
    "verify-client-cert-if-given",
    "require-and-verify-client-cert",
]

MIB = 1 << 20
GIB = 1 << 30


@frozen
class Log:
    """
    Section ``log``. ``accesslog`` says whether each request gets a line.
    """

    level: Level = "info"
    formatter: Literal["text", "json"] = "text"
    fields: Mapping[str, object] = field(factory=dict)
    accesslog: bool = True


@frozen
class StorageSettings:
    """
    Section ``storage``: one driver, and whether blobs may be deleted.
    """

    driver: Literal["filesystem", "inmemory"] = "filesystem"
    rootdirectory: str = "/var/lib/registry"
    maxthreads: int = 100
    delete: bool = False


@frozen
class ServerTLS:
    """
    Section ``http.tls``: files in PEM. ``ciphersuites`` are Go's names; empty means the default.
    """

    certificate: str
    key: str
    clientcas: tuple[str, ...] = ()
    clientauth: ClientAuth = "require-and-verify-client-cert"
    minimumtls: Literal["tls1.0", "tls1.1", "tls1.2", "tls1.3"] = "tls1.2"
    ciphersuites: tuple[str, ...] = ()


@frozen
class Address:
    """
    Where to listen: ``host`` empty means every address; for ``net: unix`` the file's path.
    """

    host: str
    port: int
    path: str | None = None


@frozen
class Debug:
    """
    Section ``http.debug``. ``prometheus`` is the path of the metrics, ``None`` where they are off.
    """

    addr: Address
    prometheus: str | None = None


@frozen
class Http:
    """
    Section ``http``. ``prefix`` has a slash at both ends, ``"/"`` being none.
    """

    addr: Address
    prefix: str = "/"
    host: str | None = None
    tls: ServerTLS | None = None
    headers: Mapping[str, tuple[str, ...]] = field(factory=dict)
    draintimeout: float = 0.0
    debug: Debug | None = None


@frozen
class Account:
    """
    The cache's own account at an upstream.
    """

    username: str
    password: str = field(repr=False)


@frozen
class Upstream:
    """
    One origin, and the way there.

    ``origin`` names it in the index and in the log: the URL in ``originhost``; for a plain list
    of URLs the ``signing.issuer``, else the URLs joined. ``hosts`` are the base URLs to ask, in
    round-robin order, without a slash at the end; ``fallback`` is the origin itself, asked when
    none of ``hosts`` answers. ``names`` are lower-case values of ``?ns=``, with a port where it
    is not the scheme's own; ``served`` (``hosts`` in the file) are lower-case values of ``Host``.
    """

    origin: str
    hosts: tuple[str, ...]
    fallback: str | None = None
    names: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()
    prefix: str | None = None
    account: Account | None = None
    public: bool = False
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    immutabletags: str | None = None
    certificate: str | None = None
    key: str | None = None
    realms: tuple[str, ...] = ()
    redirects: tuple[str, ...] = ()


@frozen
class Limits:
    """
    Bounds on everything that a stranger can make grow (option ``limits``).
    """

    manifest: int = 4 * MIB
    token: int = 64 << 10
    connections: int = 4096
    connectionsperaddress: int | None = None
    fetches: int = 256
    fetchwait: float = 10.0
    grants: int = 100_000
    clientstall: float = 60.0
    headers: int = 16 << 10
    headertime: float = 30.0
    idle: float = 120.0


@frozen
class Downstream:
    """
    The options of the middleware ``downstream``.
    """

    upstreams: tuple[Upstream, ...]
    blobttl: float | None = None
    cas: tuple[str, ...] = ()
    authttl: float = 60.0
    affirmttl: float = 86400.0
    keepdeleted: bool = False
    maxsize: int | None = None
    sweepinterval: float = 60.0
    minfree: int = GIB
    staleiferror: float = 0.0
    fillafter: float = 0.3
    stalltimeout: float = 30.0
    connecttimeout: float = 10.0
    fetchesperhost: int | None = None
    scrub: float | None = None
    fastpath: bool = True
    limits: Limits = Limits()


@frozen
class Configuration:
    """
    A whole file that has no faults.
    """

    http: Http
    downstream: Downstream
    log: Log = Log()
    storage: StorageSettings = StorageSettings()
