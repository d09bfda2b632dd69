"""The section ``http``: where and how the daemon listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from attrs import NOTHING, Factory, evolve, field, frozen

from contentcache.config.schema.kinds import (
    ACME_URL,
    ADDRESS,
    BASE64URL,
    BOOLEAN,
    CERTIFICATE_HOST,
    CERTIFICATES,
    CIPHER_SUITE,
    DURATION,
    DURATION_OR_ZERO,
    EMAIL,
    HEADERS,
    HOST,
    METRICS_PATH,
    NETWORK,
    PAIRED_FILE,
    PATH,
    PREFIX,
    PROFILE,
    TEXT,
    URL_OR_HOST,
    list_of,
    one_of,
)
from contentcache.config.schema.options import Option, by_hand, option, required

ClientAuth = Literal[
    "request-client-cert",
    "require-any-client-cert",
    "verify-client-cert-if-given",
    "require-and-verify-client-cert",
]

_CLIENT_AUTH: Final = evolve(one_of(*get_args(ClientAuth)), title="see below")

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


@frozen
class Address:
    """Where to listen: ``host`` empty means every address; for ``net: unix`` ``path`` is the file's path."""

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        """
        As it is written in the configuration.

        >>> str(Address("::1", 5000)), str(Address("", 5000))
        ('[::1]:5000', ':5000')
        """
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@frozen
class ExternalAccount:
    """An account that the operator has at a certificate authority (RFC 8555 §7.3.4). ``hmackey`` are its bytes."""

    kid: str
    hmackey: bytes = field(repr=False)


@frozen
class LetsEncrypt:
    """Section ``http.tls.letsencrypt``: certificates by ACME, one for each of ``hosts``, kept in ``directory``."""

    directory: str = required(
        PATH,
        "/var/lib/contentcache/acme",
        "folder of the account's key and of the certificates; created if missing. Where it is a file, as in "
        "version 2.8, the file stays as it is, and the folder is beside it with ``.d`` behind its name. A "
        "relative path starts at the folder in which the daemon starts, with a warning",
        key="cachefile",
    )
    hosts: tuple[str, ...] = by_hand(
        NOTHING,
        Option(
            "hosts",
            list_of(CERTIFICATE_HOST),
            "a certificate for each, and for no other. No wildcards, no addresses; single words only with "
            "another ``directoryurl``",
            "required",
        ),
    )
    email: str | None = option(EMAIL, None, "where the certificate authority can reach you")
    directoryurl: str = option(
        ACME_URL,
        LETS_ENCRYPT,
        "directory of another ACME server; ``http://`` with a warning",
        shown="Let's Encrypt",
    )
    directoryca: str | None = option(
        CERTIFICATES,
        None,
        "PEM: authorities trusted for the ACME server, besides the system's; ``cas`` does not count here",
        shown="the system's",
    )
    http: Address | None = option(
        ADDRESS, None, "``:80``: answers ``http-01``, and redirects everything else to https", shown="off"
    )
    eab: ExternalAccount | None = by_hand(
        None,
        Option("eab.kid", TEXT, "external account binding: the name of your account"),
        Option("eab.hmackey", BASE64URL, "and its key, as the certificate authority hands it out"),
    )
    challenge: Literal["tls-alpn-01", "http-01"] | None = option(
        one_of("tls-alpn-01", "http-01"), None, "the only challenge to be used", shown="any"
    )
    profile: str | None = option(
        PROFILE,
        None,
        "profile of certificates to ask for: ``shortlived`` gives six days at Let's Encrypt",
        shown="the server's own",
    )
    lifetime: float | None = option(
        DURATION,
        None,
        "lifetime to ask for, where the server allows it; Let's Encrypt does not",
        shown="the server's own",
    )


@frozen
class ServerTLS:
    """
    Section ``http.tls``: files in PEM, or where they are empty texts ``letsencrypt``. ``ciphersuites`` are
    Go's names; empty means the default.
    """

    certificate: str = by_hand(
        "", Option("certificate", PAIRED_FILE, "PEM: the leaf, then its intermediates", effect="reload")
    )
    key: str = by_hand("", Option("key", PAIRED_FILE, "PEM, not encrypted", effect="reload"))
    clientcas: tuple[str, ...] = option(
        list_of(CERTIFICATES), (), "authorities of clients' certificates", effect="reload"
    )
    clientauth: ClientAuth = option(
        _CLIENT_AUTH,
        "require-and-verify-client-cert",
        "what is asked of clients; only with ``clientcas``",
        shown="require and verify",
        effect="reload",
    )
    minimumtls: Literal["tls1.0", "tls1.1", "tls1.2", "tls1.3"] = by_hand(
        "tls1.2",
        Option(
            "minimumtls",
            one_of("tls1.0", "tls1.1", "tls1.2", "tls1.3"),
            "``tls1.0`` and ``tls1.1`` are taken as ``tls1.2``, with a warning",
            effect="reload",
        ),
    )
    ciphersuites: tuple[str, ...] = option(
        list_of(CIPHER_SUITE),
        (),
        "names of Go's ``crypto/tls``",
        shown="secure ones",
        effect="reload",
    )
    letsencrypt: LetsEncrypt | None = None
    ca: str | None = option(CERTIFICATES, None, "what a gateway hands out at ``/ca``")


@frozen
class Debug:
    """
    Section ``http.debug``. ``prometheus`` is the path of the metrics, ``None`` where they are off. ``hosts`` are
    names, perhaps with a port.
    """

    addr: Address = by_hand(
        NOTHING,
        Option(
            "addr", ADDRESS, "listener of ``/debug/health``, the status and the metrics, never public", "off"
        ),
    )
    prometheus: str | None = by_hand(
        None,
        Option("prometheus.enabled", BOOLEAN, "serve metrics there", "``false``"),
        Option("prometheus.path", METRICS_PATH, "their path", "``/metrics``"),
    )
    names: bool = by_hand(
        False,
        Option(
            "names",
            BOOLEAN,
            "show names of repositories, tags and digests there to everybody, and not to this machine alone",
            "``false``",
        ),
    )
    hosts: tuple[str, ...] = by_hand(
        (),
        Option(
            "hosts",
            list_of(HOST),
            "names by which this listener may be asked besides its own, such as that of a service (*The debug "
            "address* in ``operating.rst``)",
        ),
    )


@frozen
class Http:
    """Section ``http``. ``prefix`` has a slash at both ends, ``"/"`` being none."""

    addr: Address = by_hand(
        NOTHING,
        Option(
            "addr",
            ADDRESS,
            "``:5000``, ``host:5000``, ``[::1]:5000``; a path with ``net: unix``",
            "required",
            ":5000",
        ),
        Option("net", one_of("tcp", "unix"), "kind of socket", "``tcp``"),
    )
    prefix: str = option(PREFIX, "/", "what stands before ``/v2/``, with a slash at both ends")
    host: str | None = option(
        URL_OR_HOST,
        None,
        "how clients call this cache; a gateway's changes with a restart only",
        shown="from the request",
        effect="reload",
    )
    trustedproxies: tuple[str, ...] = option(
        list_of(NETWORK, "addresses, networks"),
        ("127.0.0.0/8", "::1/128"),
        "whose ``X-Forwarded-For``, ``-Proto`` and ``-Host`` are believed",
        shown="the loopback",
        effect="reload",
    )
    tls: ServerTLS | None = None
    headers: Mapping[str, tuple[str, ...]] = by_hand(
        Factory(dict), Option("headers", HEADERS, "added to every response", effect="reload")
    )
    draintimeout: float = option(
        DURATION_OR_ZERO, 0.0, "how long transfers may finish after ``SIGTERM``", effect="reload"
    )
    debug: Debug | None = None
    admin: str | None = option(
        PATH,
        None,
        "socket of the admin API, for the daemon's account and root alone. It is under the store unless it is "
        "given here; a gateway has ``run`` beside its database, a store in memory has none. A relative path "
        "starts at the folder in which the daemon starts",
        shown="``run/admin.sock``",
    )
