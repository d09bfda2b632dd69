"""
A configuration, read and checked: frozen values that the rest of the house takes.

Times are seconds, sizes are bytes, ``None`` means "without bound" or "not given".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import Factory, field, frozen

Level = Literal["error", "warn", "info", "debug"]
ClientAuth = Literal[
    "request-client-cert",
    "require-any-client-cert",
    "verify-client-cert-if-given",
    "require-and-verify-client-cert",
]

MIB = 1 << 20
GIB = 1 << 30

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


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
class Address:
    """
    Where to listen: ``host`` empty means every address; for ``net: unix`` the file's path.
    """

    host: str
    port: int
    path: str | None = None


@frozen
class ExternalAccount:
    """
    An account that the operator has at a certificate authority (RFC 8555 §7.3.4). ``hmackey`` are its bytes.
    """

    kid: str
    hmackey: bytes = field(repr=False)


@frozen
class LetsEncrypt:
    """
    Section ``http.tls.letsencrypt``: certificates by ACME, one for each of ``hosts``, kept in ``directory``.

    ``directoryca`` is a file that vouches for the ACME server; ``http`` is where ``http-01`` is answered.
    ``challenge`` is the only kind to be used, ``None`` where any is fine. ``profile`` and ``lifetime``, in
    seconds, are asked of the server.
    """

    directory: str
    hosts: tuple[str, ...]
    email: str | None = None
    directoryurl: str = LETS_ENCRYPT
    directoryca: str | None = None
    http: Address | None = None
    eab: ExternalAccount | None = None
    challenge: Literal["tls-alpn-01", "http-01"] | None = None
    profile: str | None = None
    lifetime: float | None = None


@frozen
class ServerTLS:
    """
    Section ``http.tls``: files in PEM, or where they are empty texts ``letsencrypt``. ``ciphersuites`` are
    Go's names; empty means the default. ``ca`` is what a gateway hands to whoever has to trust it.
    """

    certificate: str = ""
    key: str = ""
    clientcas: tuple[str, ...] = ()
    clientauth: ClientAuth = "require-and-verify-client-cert"
    minimumtls: Literal["tls1.0", "tls1.1", "tls1.2", "tls1.3"] = "tls1.2"
    ciphersuites: tuple[str, ...] = ()
    letsencrypt: LetsEncrypt | None = None
    ca: str | None = None


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
class CredentialHelper:
    """
    A program that knows the account at an upstream (``exec``), as Docker's credential helpers do.

    ``command`` is the program and its arguments, before ``get``. An answer is kept for ``lifetime`` seconds:
    ``None`` for as long as the daemon lives, 0 not at all.
    """

    command: tuple[str, ...]
    lifetime: float | None = None


@frozen
class TokenAuth:
    """
    Section ``auth.token``: clients bring tokens of a registry's token server, and are judged here.

    ``rootcertbundle`` (certificates in PEM) or ``jwks`` is the path of the file with the keys that sign, or
    both are. With ``autoredirect`` the realm is ``autoredirectpath`` at the host that the client has asked.
    """

    realm: str
    service: str
    issuer: str
    rootcertbundle: str | None = None
    jwks: str | None = None
    signingalgorithms: tuple[str, ...] = ()
    autoredirect: bool = False
    autoredirectpath: str = "/auth/token/"


@frozen
class HtpasswdAuth:
    """
    Section ``auth.htpasswd``: a file of users and bcrypt hashes.
    """

    realm: str
    path: str


@frozen
class Signing:
    """
    Option ``signing``: where the keys are that sign redirects, and who signs.

    ``jwks`` is the path of a JWK set; without it the origin is asked. ``issuer`` is the origin's URL where
    ``upstreams`` is a plain list.
    """

    jwks: str | None = None
    issuer: str | None = None


@frozen
class Upstream:
    """
    One origin, and the way there.

    ``origin`` names it in the index and in the log: the URL in ``originhost``; for a plain list
    of URLs the ``signing.issuer``, else the URLs joined. ``hosts`` are the base URLs to ask, in
    round-robin order, without a slash at the end; ``fallback`` is the origin itself, asked when
    none of ``hosts`` answers. ``names`` are lower-case values of ``?ns=``, with a port where it
    is not the scheme's own; ``served`` (``hosts`` in the file) are lower-case values of ``Host``.

    ``own`` says that clients' credentials end here and the cache's own account, or nobody, speaks upstream:
    because whoever comes may (``public``), or because clients are judged here (section ``auth``). ``issuer``
    is who must have signed a URL for this origin, ``None`` where nobody can be known to.
    """

    origin: str
    hosts: tuple[str, ...]
    fallback: str | None = None
    names: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()
    prefix: str | None = None
    account: Account | None = None
    helper: CredentialHelper | None = None
    public: bool = False
    own: bool = field(default=Factory(lambda upstream: upstream.public, takes_self=True))
    issuer: str | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    immutabletags: str | None = None
    certificate: str | None = None
    key: str | None = None
    realms: tuple[str, ...] = ()
    redirects: tuple[str, ...] = ()

    def is_origin(self, host: str) -> bool:
        """
        Whether the base URL ``host`` is the origin's own, and not a cache's on the way.
        """
        return host == self.origin or host.partition("://")[2] in self.names


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
    signing: Signing = Signing()
    fastpath: bool = True
    limits: Limits = Limits()


@frozen
class Gateway:
    """
    The options of the middleware ``redirect``.

    ``registry`` is the base URL of the registry behind, ``issuer`` the gateway's own, as clients and caches
    know it. ``account`` is what fills caches, ``None`` for a registry that is open to everybody. ``paths``
    are passed besides the registry's API. ``networks`` has the name of a cache for each network of clients.
    """

    registry: str
    issuer: str
    signingkey: str
    database: str
    keylifetime: float = 2_592_000.0
    urlttl: float = 1200.0
    minimumsize: int = 64 << 10
    admins: tuple[str, ...] = ()
    admingroup: str | None = None
    account: Account | None = None
    networks: Mapping[str, str] = field(factory=dict)
    paths: tuple[str, ...] = ()
    cas: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None
    realms: tuple[str, ...] = ()
    redirects: tuple[str, ...] = ()
    authttl: float = 60.0
    checkinterval: float = 10.0
    writetimeout: float = 900.0
    stalltimeout: float = 30.0
    connecttimeout: float = 10.0
    limits: Limits = Limits()


@frozen
class Configuration:
    """
    A whole file that has no faults. The middleware makes the daemon what it is; ``workers`` is how many
    processes serve clients.
    """

    http: Http
    middleware: Downstream | Gateway
    log: Log = Log()
    storage: StorageSettings = StorageSettings()
    auth: TokenAuth | HtpasswdAuth | None = None
    workers: int = 1

    @property
    def downstream(self) -> Downstream:
        """The options of a cache. Raises ``TypeError`` where the daemon is a gateway."""
        if not isinstance(self.middleware, Downstream):
            raise TypeError("this is a gateway's configuration")
        return self.middleware
