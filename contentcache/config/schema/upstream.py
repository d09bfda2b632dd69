"""The option ``upstreams``: origins, and the ways to them."""

from __future__ import annotations

from attrs import NOTHING, Factory, field, frozen

from contentcache.config.schema.kinds import (
    BASE_URL,
    BOOLEAN,
    COMMAND,
    COMPONENT,
    DURATION_OR_ZERO,
    GLOB,
    HOST,
    PAIRED_FILE,
    PASSWORD_FILE,
    REDIRECT_TARGET,
    SECRET,
    SIGNING_KEYS,
    TAG_PATTERN,
    URL_OR_HOST,
    USER_NAME,
    list_of,
)
from contentcache.config.schema.options import Option, by_hand, option


@frozen
class Account:
    """The cache's own account at an upstream."""

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
class Signing:
    """
    Option ``signing``: where the keys are that sign redirects, and who signs.

    ``jwks`` is the path of a JWK set; without it the origin is asked. ``issuer`` is the origin's URL where
    ``upstreams`` is a plain list.
    """

    jwks: str | None = option(
        SIGNING_KEYS,
        None,
        "JWK set: public keys that sign URLs (``ES256``, ``EdDSA``, ``RS256``)",
        shown="the origin's",
    )
    issuer: str | None = option(
        BASE_URL,
        None,
        "the origin to which a plain list of upstreams leads, and who signs URLs; without it a plain list "
        "takes no signed URLs",
    )


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
    because whoever comes may (``public``), or because of local authentication (section ``auth``). ``issuer``
    is who must have signed a URL for this origin, ``None`` where nobody can be known to.
    """

    origin: str = by_hand(
        NOTHING,
        Option(
            "originhost",
            BASE_URL,
            "the registry that knows who may have what",
            example="https://registry.example.com",
        ),
    )
    hosts: tuple[str, ...] = by_hand(
        NOTHING,
        Option(
            "upstreamhosts",
            list_of(BASE_URL),
            "caches on the way, asked in turn; the origin itself is then never contacted",
            "the origin",
        ),
    )
    fallback: str | None = by_hand(
        None,
        Option("fallbacktoorigin", BOOLEAN, "unless this is set, and none of them answers", "``false``"),
    )
    names: frozenset[str] = by_hand(
        frozenset(),
        Option(
            "names",
            list_of(HOST),
            "values of ``?ns=`` that mean this origin, with a port unless it is the scheme's own",
            "origin's host",
            effect="reload",
        ),
    )
    served: frozenset[str] = by_hand(
        frozenset(),
        Option("hosts", list_of(HOST), "values of ``Host`` that mean this origin", "none", effect="reload"),
    )
    prefix: str | None = option(
        COMPONENT,
        None,
        "first component of repositories that means this origin; needs ``auth`` or ``public: true``; "
        "required beside ``auth.token`` for all but the first",
    )
    account: Account | None = by_hand(
        None,
        Option(
            "username",
            USER_NAME,
            "the cache's own account; needs ``auth`` or ``public: true``",
            effect="reload",
        ),
        Option(
            "password", SECRET, "its password; numbers and words such as ``yes`` need quotes", effect="reload"
        ),
        Option("passwordfile", PASSWORD_FILE, "or a file that holds it in one line", effect="reload"),
    )
    credential_helper: CredentialHelper | None = by_hand(
        None,
        Option(
            "exec.command",
            COMMAND,
            "or a program that tells name and password, and its arguments; a text is split as a shell does",
        ),
        Option(
            "exec.lifetime", DURATION_OR_ZERO, "how long its answer is kept; ``0`` asks each time", "for ever"
        ),
    )
    public: bool = by_hand(
        False,
        Option(
            "public",
            BOOLEAN,
            "whoever reaches this cache may have whatever its account may, or anybody without one; no effect "
            "with ``auth``",
        ),
    )
    own: bool = field(default=Factory(lambda upstream: upstream.public, takes_self=True))
    issuer: str | None = None
    allow: tuple[str, ...] = option(
        list_of(GLOB),
        (),
        "repositories that may be pulled; ``*`` stays within a component, ``**`` does not",
        shown="all",
        effect="reload",
    )
    deny: tuple[str, ...] = option(list_of(GLOB), (), "repositories that may not", effect="reload")
    immutabletags: str | None = option(
        TAG_PATTERN,
        None,
        "tags that never move: a glob (``v*``), or a regular expression, which starts with ``^``",
        effect="reload",
    )
    certificate: str | None = by_hand(
        None, Option("certificate", PAIRED_FILE, "client certificate for upstreams that ask for one")
    )
    key: str | None = by_hand(None, Option("key", PAIRED_FILE, "its key, not encrypted"))
    realms: tuple[str, ...] = option(
        list_of(URL_OR_HOST, "URLs, hosts"),
        (),
        "where the password may be sent for tokens",
        shown="own host or site",
        effect="reload",
    )
    redirects: tuple[str, ...] = option(
        list_of(REDIRECT_TARGET, "hosts, networks"),
        (),
        "host names, addresses and ranges (``10.0.0.0/8``) to which the upstream may redirect though they "
        "are private; with its scheme (``http://s3.internal:9000``) a place to which an ``https`` upstream "
        "may redirect in plain HTTP",
    )

    def is_origin(self, host: str) -> bool:
        """Whether the base URL ``host`` is the origin's own, and not a cache's on the way."""
        return host == self.origin or host.partition("://")[2] in self.names
