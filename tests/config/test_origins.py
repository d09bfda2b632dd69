"""Tests for :mod:`contentcache.config.origins`."""

from __future__ import annotations

import doctest

from contentcache.config import origins
from contentcache.config.model import Account, CredentialHelper, Upstream
from contentcache.config.origins import DOCKER_HUB
from tests.config.samples import USER
from tests.config.writing import ConfigurationTestCase, with_options, with_upstream
from tests.signer import Signer

_UP = "middleware.registry[0].options.upstreams"
_A = "https://a.example"
_CACHE = "https://cache.example"

PLAIN = {
    f"upstreams: ['{_A}']": Upstream(origin=_A, hosts=(_A,), names=frozenset({"a.example"})),
    f"upstreams: ['{_A}', '{_CACHE}:5000']": Upstream(
        origin=f"{_A} {_CACHE}:5000",
        hosts=(_A, f"{_CACHE}:5000"),
        names=frozenset({"a.example", "cache.example:5000"}),
    ),
    f"upstreams: ['{_CACHE}']\nsigning: {{issuer: '{_A}'}}": Upstream(
        origin=_A, issuer=_A, hosts=(_CACHE,), names=frozenset({"a.example"})
    ),
    f"upstreams: ['{_CACHE}']\nsigning: {{issuer: '{_A}'}}\nfallbacktoorigin: true": Upstream(
        origin=_A, issuer=_A, hosts=(_CACHE,), fallback=_A, names=frozenset({"a.example"})
    ),
    "upstreams: ['https://docker.io']": Upstream(
        origin="https://docker.io", hosts=("https://registry-1.docker.io",), names=DOCKER_HUB
    ),
}

MAPPED: dict[str, dict[str, object]] = {
    "": {},
    f"upstreamhosts: ['{_CACHE}', '{_CACHE}:5000']": {"hosts": (_CACHE, f"{_CACHE}:5000")},
    "upstreamhosts:": {},
    "upstreamhosts: []": {},
    f"upstreamhosts: ['{_CACHE}']\nfallbacktoorigin: true": {"hosts": (_CACHE,), "fallback": _A},
    f"upstreamhosts: ['{_CACHE}']\nfallbacktoorigin: false": {"hosts": (_CACHE,)},
    "fallbacktoorigin: false": {},
    "names: [Quay.io, 'x:443', 'y:5000']": {"names": frozenset({"quay.io", "x", "y:5000"})},
    "names: [docker.io]": {"names": DOCKER_HUB},
    "hosts: [Cache.Example, 'b:5000']": {"served": frozenset({"cache.example", "b:5000"})},
    "public: true\nprefix: quay.io": {"prefix": "quay.io", "public": True, "own": True},
    "public: true\nusername: u\npassword: 'p:w'": {
        "account": Account("u", "p:w"),
        "public": True,
        "own": True,
    },
    "public: true\nusername: 007\npassword: 0123": {
        "account": Account("007", "0123"),
        "public": True,
        "own": True,
    },
    "allow: [library/*, 'org/**']\ndeny: ['*/secret']": {
        "allow": ("library/*", "org/**"),
        "deny": ("*/secret",),
    },
    "immutabletags: v*": {"immutabletags": "v*"},
    "immutabletags: '^v[0-9]+$'": {"immutabletags": "^v[0-9]+$"},
    "realms: ['https://Auth.example/token', auth.example]": {
        "realms": ("https://auth.example/token", "auth.example")
    },
    "public: true\nexec: {command: sh -c 'echo x'}": {
        "public": True,
        "own": True,
        "credential_helper": CredentialHelper(("sh", "-c", "echo x")),
    },
    "public: true\nexec: {command: [/bin/sh, a b], lifetime: 0}": {
        "public": True,
        "own": True,
        "credential_helper": CredentialHelper(("/bin/sh", "a b"), 0.0),
    },
    "redirects: [s3.internal, 10.0.0.0/8]": {"redirects": ("s3.internal", "10.0.0.0/8")},
    "redirects: [HTTP://S3.Internal:9000/, 'https://*.cdn.internal', 'http://[FD00::1]:80']": {
        "redirects": ("http://s3.internal:9000", "https://*.cdn.internal", "http://[fd00::1]:80")
    },
}

FAULTY = {
    "originhost: https://b.example": ".originhost: given twice; the first is on line 9",
    "upstreamhosts: https://c.example": ".upstreamhosts: 'https://c.example' is not a list; put it in",
    "upstreamhosts: [c.example]": ".upstreamhosts[0]: 'c.example' is not a URL of http or https; write e.g.",
    "upstreamhosts: ['https://c', 'https://C:443']": ".upstreamhosts[1]: 'https://C:443' is given twice",
    "upstreamhosts: [{a: b}]": ".upstreamhosts[0]: a mapping stands where a single value belongs",
    "upstreamhosts: ['https://u:topsecret@c']": ".upstreamhosts[0]: the URL holds a user name or a",
    "upstreamhost: []": ".upstreamhost: unknown key; did you mean upstreamhosts?",
    "fallbacktoorigin: 'true'": ".fallbacktoorigin: 'true' in quotes is a text, not a boolean",
    "names: docker.io": ".names: 'docker.io' is not a list; put it in brackets",
    "names: ['https://docker.io']": ".names[0]: 'https://docker.io' is not a host; write e.g.",
    "names: [a, A]": ".names[1]: 'A' is given twice",
    "hosts: ['a/b']": ".hosts[0]: 'a/b' is not a host; write e.g.",
    "prefix: quay.io": ".prefix: needs public: true or a section auth, since tokens",
    "public: true\nprefix: Quay": ".prefix: 'Quay' is not the first component of a repository's name",
    "public: true\nprefix: a/b": ".prefix: 'a/b' is not the first component of a repository's name",
    "public: yess": ".public: 'yess' is not a boolean; write true or false",
    "username: u\npassword: topsecret": ".username: an account needs a section auth, by which clients",
    "public: true\nusername: u": ".username: has no password; give password or passwordfile",
    "public: true\npassword: topsecret": ".username: is required where password is given",
    "public: true\nusername: u:topsecret\npassword: p": ".username: holds a colon, which no user name may",
    "public: true\nusername: [u]\npassword: topsecret": ".username: a list stands where a single value",
    "public: true\nusername: u\npassword: [topsecret]": ".password: is not a non-empty text in one line",
    "public: true\nusername: u\npassword: yes": ".password: is not a non-empty text in one line; put it in",
    "public: true\nusername: u\npassword: ''": ".password: is not a non-empty text in one line",
    "public: true\nusername: u\npassword: !topsecret": None,
    "public: true\nusername: u\npassword: !!int topsecret": ".password: the value is not of the type",
    "exec: {command: /bin/sh -c topsecret}": ".exec: an account needs a section auth, by which clients are",
    "public: true\nexec: /bin/sh -c topsecret": ".exec: is not a mapping; write e.g. exec: {command: ",
    "public: true\nexec: [topsecret]": ".exec: is not a mapping; write e.g. exec: {command: ",
    "public: true\nexec: {lifetime: 1h}": ".exec.command: is required; write e.g. /usr/local/bin/docker-cred",
    "public: true\nexec: {command: /nope topsecret}": ".exec.command: '/nope' is no program that this",
    "public: true\nexec: {command: /etc/passwd}": ".exec.command: '/etc/passwd' is no program that this user",
    "public: true\nexec: {command: /etc}": ".exec.command: '/etc' is no program that this user may run",
    "public: true\nexec: {command: 'sh \"topsecret'}": ".exec.command: has a quote or a backslash",
    "public: true\nexec: {command: []}": ".exec.command: names no program",
    "public: true\nexec: {command: [sh, [topsecret]]}": ".exec.command[1]: is not a non-empty text",
    "public: true\nexec: {command: {topsecret: 1}}": ".exec.command: is not a non-empty text in one line",
    "public: true\nexec: {command: sh, lifetime: -1s}": ".exec.lifetime: '-1s' is not 0 or more",
    "public: true\nexec: {comand: sh, command: sh}": ".exec.comand: unknown key; did you mean command?",
    "public: true\nusername: u\npassword: topsecret\nexec: {command: sh}": None,
    "allow: library/*": ".allow: 'library/*' is not a list; put it in brackets: [...]",
    "allow: [Library/*]": ".allow[0]: 'Library/*' matches no repository; write e.g. library/* or org/**, in",
    "deny: [/org]": ".deny[0]: '/org' matches no repository",
    "deny: ['']": ".deny[0]: is an empty text",
    "immutabletags: '^v('": ".immutabletags: '^v(' is not a regular expression: missing ), unterminated",
    "immutabletags: '^v{99999999999999}'": ".immutabletags: '^v{99999999999999}' is not a regular",
    "immutabletags: v/1": ".immutabletags: 'v/1' matches no tag; write e.g. v* or ^v[0-9.]+$",
    "immutabletags: [v*]": ".immutabletags: a list stands where a single value belongs",
    "realms: ['ftp://a']": ".realms[0]: 'ftp://a' is not a URL of http or https",
    "redirects: [http://s3.internal/bucket]": ".redirects[0]: 'http://s3.internal/bucket' is not a place to",
    "redirects: [ftp://s3.internal]": ".redirects[0]: 'ftp://s3.internal' is not a place to redirect to",
    "redirects: ['http://']": ".redirects[0]: 'http://' is not a place to redirect to",
    "redirects: [http://s3.internal:0]": ".redirects[0]: 'http://s3.internal:0' has no port between 1 and",
    "redirects: [http://me@s3.internal]": ".redirects[0]: '***@s3.internal' has no proper host name",
    "redirects: [10.0.0.0/99]": ".redirects[0]: '10.0.0.0/99' is not a host name, an IP address or a range",
    "certificate: /nope\nkey: /nope": None,
}

FAULTY_LISTS = {
    "": ": is required; write e.g. upstreams: [{originhost: https://registry.example.com}]",
    "upstreams:": ": is required; write e.g.",
    "upstreams: []": ": is empty; at least one upstream is needed",
    "upstreams: https://a.example": ": 'https://a.example' is not a list; put each upstream behind a dash",
    "upstreams: {originhost: 'https://a.example'}": ": a mapping is not a list; put each upstream behind a",
    "upstreams: ['https://a.example', {originhost: 'https://b.example'}]": "[0]: 'https://a.example' stands",
    "upstreams: [[a]]": "[0]: a list stands where a single value belongs",
    "upstreams: [ ~ ]": "[0]: nothing stands where a single value belongs",
    "upstreams: ['https://a.example', 'https://A.example/']": "[1]: 'https://A.example/' is given twice",
    "upstreams: ['https://u:topsecret@a']": "[0]: the URL holds a user name or a password",
    "upstreams: [{}]": "[0].originhost: is required; write e.g. https://registry.example.com",
    "upstreams: [{originhost: [a]}]": "[0].originhost: a list stands where a single value belongs",
}

DOUBLES = {
    ("https://a", "", "https://A:443/", ""): "originhost: is the origin of upstreams[0] too",
    ("https://docker.io", "", "https://index.docker.io", ""): "originhost: is the origin of upstreams[0] too",
    ("https://a", "names: [x]", "https://b", "names: [X]"): "names: x means upstreams[0] too",
    (
        "https://a",
        "names: [docker.io]",
        "https://registry-1.docker.io",
        "",
    ): "names: docker.io, index.docker.io, ",
    ("https://a", "hosts: [x]", "https://b", "hosts: [y, X]"): "hosts: x means upstreams[0] too",
    (
        "https://a",
        "public: true, prefix: p",
        "https://b",
        "public: true, prefix: p",
    ): "prefix: 'p' means upstreams[0]",
}


class UpstreamsTests(ConfigurationTestCase):
    """The option ``upstreams`` in both forms."""

    def test_plain(self) -> None:
        """A plain list leads to a single origin, which ``signing.issuer`` names."""
        for options, upstream in PLAIN.items():
            self.assertEqual(self.downstream(options).upstreams, (upstream,))

    def test_mapped(self) -> None:
        """Every key of a mapping is read into its field."""
        for keys, fields in MAPPED.items():
            base: dict[str, object] = {
                "origin": _A,
                "issuer": _A,
                "hosts": (_A,),
                "names": frozenset({"a.example"}),
            }
            self.assertEqual(self.upstream(keys), Upstream(**{**base, **fields}), keys)  # type: ignore[arg-type]

    def test_docker_hub(self) -> None:
        """Docker Hub has three names, and the one that answers is asked."""
        for host in DOCKER_HUB:
            for more in ("", ", names: [mirror.example]"):
                found = self.downstream(f"upstreams: [{{originhost: 'https://{host}'{more}}}]").upstreams[0]
                self.assertEqual(found.origin, f"https://{host}")
                self.assertEqual(found.hosts, ("https://registry-1.docker.io",))
                self.assertEqual(found.names - {"mirror.example"}, DOCKER_HUB)

    def test_fallback(self) -> None:
        """What a mapping says of the fallback wins over the option beside the list."""
        rows = f"upstreamhosts: ['{_CACHE}']"
        found = self.downstream(
            "fallbacktoorigin: true\nupstreams:\n"
            f"  - {{originhost: 'https://a.example', {rows}}}\n"
            f"  - {{originhost: 'https://b.example', {rows}, fallbacktoorigin: false}}\n"
            "  - {originhost: 'https://docker.io'}\n"
        )
        self.assertEqual([each.fallback for each in found.upstreams], [_A, None, None])

    def test_idle_fallback(self) -> None:
        """A fallback that cannot matter is warned of."""
        for text in (
            with_upstream("fallbacktoorigin: true"),
            with_options(f"upstreams: ['{_A}']\nfallbacktoorigin: true"),
        ):
            warnings = self.warnings(text)
            self.assertEqual(len(warnings), 1)
            self.assertIn("fallbacktoorigin: has no effect without upstreamhosts", warnings[0])

    def test_plain_http(self) -> None:
        """All that is asked over plain HTTP is named in exactly one warning."""
        warnings = self.warnings(
            with_options(
                "upstreams:\n  - originhost: http://a.example\n    upstreamhosts: ['http://b.example', 'https://c']\n"
                "  - originhost: http://d.example\n"
            )
        )
        self.assertEqual(len(warnings), 1)
        for url in ("http://a.example", "http://b.example", "http://d.example"):
            self.assertIn(url, warnings[0])

    def test_faulty(self) -> None:
        """Every wrong value in a mapping is one fault at its place, and no secret is repeated."""
        for keys, told in FAULTY.items():
            if told is not None:
                self.assert_told(with_upstream(keys), f"{_UP}[0]{told}")
            self.assertNotIn("topsecret", "".join(self.told(with_upstream(keys))))

    def test_space_missing(self) -> None:
        """A password that was written too close to its key is not repeated as an unknown key."""
        text = with_options("upstreams: [{originhost: 'https://a', public: true, password:topsecret}]")
        self.assert_told(text, f"{_UP}[0].password: has no space behind its colon")
        self.assertNotIn("topsecret", "".join(self.told(text)))

    def test_exec_beside_account(self) -> None:
        """A program tells both the name and the password: each of ours beside it is a fault."""
        told = self.told(with_upstream("public: true\nusername: u\npassword: p\nexec: {command: sh}"))
        self.assertEqual(
            [line.partition(": ")[0] for line in told], [f"{_UP}[0].username", f"{_UP}[0].password"]
        )

    def test_local_tokens(self) -> None:
        """With a section ``auth`` any upstream may have an account and a prefix, and all credentials end here."""
        keys = "username: u\npassword: p\nprefix: quay.io"
        loaded = self.load(with_upstream(keys) + self.auth())
        self.assertEqual(loaded.warnings, ())
        found = loaded.configuration.downstream.upstreams[0]
        self.assertEqual((found.own, found.public, found.account), (True, False, Account("u", "p")))
        listed = self.load(with_options(f"upstreams: ['{_A}']") + self.auth())
        self.assertTrue(listed.configuration.downstream.upstreams[0].own)

    def test_public_beside_auth(self) -> None:
        """Local authorization counts for every upstream; a ``public`` that says otherwise gets a warning."""
        warnings = self.warnings(with_upstream("public: true") + self.auth())
        self.assertEqual(len(warnings), 1)
        self.assertIn("upstreams[0].public: has no effect where there is a section auth", warnings[0])

    def test_token_for_one_origin(self) -> None:
        """
        Beside auth.token all upstreams but the first need a prefix, since a token names no origin; beside
        auth.htpasswd, and where there is one upstream, none does.
        """
        first, second = f"{{originhost: '{_A}'}}", f"originhost: '{_CACHE}'"
        alone = with_options(f"upstreams: [{first}]")
        both = with_options(f"upstreams: [{first}, {{{second}}}]")
        apart = with_options(f"upstreams: [{first}, {{{second}, prefix: b}}]")
        token = "\nauth: {token: {realm: 'https://t.example/', service: s, issuer: i, jwks: %s}}\n"
        token %= self.write(Signer(_A, "org/app", "sha256:00", 0).jwks())
        (fault,) = self.faults(both + token)
        self.assertEqual(fault.path, f"{_UP}[1].prefix")
        self.assertIn("is required for all upstreams but the first beside auth.token", fault.message)
        self.assertEqual(fault.line, 8)
        for text in (alone + token, apart + token, both + self.auth(), both):
            self.load(text)

    def auth(self) -> str:
        """A section ``auth`` with a user."""
        return f"\nauth: {{htpasswd: {{realm: r, path: {self.write(USER)}}}}}\n"

    def test_two_ways_of_a_password(self) -> None:
        """A password may not be given twice."""
        path = self.write("topsecret")
        keys = f"public: true\nusername: u\npassword: p\npasswordfile: {path}"
        self.assert_told(with_upstream(keys), f"{_UP}[0].passwordfile: is given beside password")

    def test_faulty_lists(self) -> None:
        """A missing, empty, mixed or wrongly built list is one fault with a hint."""
        for options, told in FAULTY_LISTS.items():
            self.assert_told(with_options(options or "cas: []"), f"{_UP}{told}")
            self.assertNotIn("topsecret", "".join(self.told(with_options(options or "cas: []"))))

    def test_doubles(self) -> None:
        """Two upstreams share no origin, name, host or prefix."""
        for (first, more, second, other), told in DOUBLES.items():
            text = (
                f"upstreams:\n  - {{originhost: '{first}', {more}}}\n  - {{originhost: '{second}', {other}}}"
            )
            self.assert_told(with_options(text), f"{_UP}[1].{told}")

    def test_doubles_behind_a_fault(self) -> None:
        """The other upstream is named by its place in the file, whatever is wrong with those before it."""
        faults = self.told(
            with_options("upstreams: [{}, {originhost: 'https://a'}, {originhost: 'https://a'}]")
        )
        self.assertEqual(faults[1], f"{_UP}[2].originhost: is the origin of upstreams[1] too")

    def test_password_hidden(self) -> None:
        """The password of an account is not in its representation."""
        self.assertNotIn("topsecret", repr(Account("u", "topsecret")))

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(origins).failed, 0)
