"""Tests for :mod:`contentcache.config.sections`."""

from __future__ import annotations

import json
import os

from contentcache.config.loading import load
from contentcache.config.model import HtpasswdAuth, TokenAuth
from contentcache.config.patterns import ALGORITHMS
from tests.config.samples import USER
from tests.config.writing import MINIMAL, PLAIN, ConfigurationTestCase, with_options
from tests.tls.certificates import make

PRIVATE = MINIMAL.replace(", public: true", "")
KEY = {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}
TOKEN = {"realm": "https://auth.example/token", "service": "s", "issuer": "i"}

KINDS = {
    "auth: [none]": "auth: a list is not a mapping of keys to values",
    "auth: htpaswd": "auth.htpaswd: unknown kind of auth; did you mean htpasswd?",
    "auth: oidc": "auth.oidc: unknown kind of auth; use htpasswd or token",
    "auth: silly": "auth.silly: is not supported: it lets in whoever sends any credentials at all",
    "auth: {silly: {realm: r, service: s}}": "auth.silly: is not supported",
}

FAULTY_TOKENS: dict[str, str] = {
    "realm: auth.example": ".realm: 'auth.example' is not a URL of http or https; write e.g.",
    "realm: https://u:topsecret@auth.example": ".realm: the URL holds a user name or a password",
    "realm: 'https://a/\"'": ".realm: 'https://a/\"' must be ASCII without quotes, since a header carries it",
    "service: 'a\"b'": ".service: 'a\"b' must be ASCII without quotes and backslashes",
    "issuer: [a]": ".issuer: a list stands where a single value belongs",
    "jwks: /nope": ".jwks: '/nope' cannot be read: No such file or directory",
    "rootcertbundle: /nope": ".rootcertbundle: '/nope' cannot be read: No such file or directory",
    "signingalgorithms: ES256": ".signingalgorithms: 'ES256' is not a list; put it in brackets",
    "signingalgorithms: [HS256]": ".signingalgorithms[0]: HS256 is not supported: its key is a secret",
    "signingalgorithms: [none]": ".signingalgorithms[0]: 'none' is not one of EdDSA, RS256",
    "signingalgorithms: [es256]": ".signingalgorithms[0]: 'es256' is not one of EdDSA",
    "autoredirect: 'yes'": ".autoredirect: 'yes' in quotes is a text, not a boolean",
    "autoredirect: true, autoredirectpath: token": ".autoredirectpath: 'token' is not a path of a URL",
    "relm: r": ".relm: unknown key; did you mean realm?",
}


class KindsTests(ConfigurationTestCase):
    """Which kind there is."""

    def test_none(self) -> None:
        """No authentication may be spelt out."""
        for auth in ("auth:", "auth: none", "auth: {none: {}}", "auth: {none: }", "auth: {}"):
            loaded = self.load(MINIMAL + auth)
            self.assertEqual((loaded.warnings, loaded.configuration.auth), ((), None))

    def test_refused(self) -> None:
        """Kinds that do not exist, or let everybody in, are faults."""
        for auth, told in KINDS.items():
            self.assert_told(MINIMAL + auth, told)

    def test_two(self) -> None:
        """One kind is all that there may be."""
        path = self.write(USER)
        fault = self.only_fault(MINIMAL + f"auth: {{none: , htpasswd: {{realm: r, path: {path}}}}}")
        self.assertEqual((fault.path, fault.line), ("auth.htpasswd", 9))
        self.assertIn("is a second kind of auth beside none", fault.message)

    def test_empty(self) -> None:
        """A kind without its keys is told each that is missing, however it is written, and nothing else."""
        for auth in ("auth: htpasswd", "auth: {htpasswd: }", "auth:\n  htpasswd: {}"):
            text = PRIVATE.replace('example"', 'example", prefix: quay.io') + auth
            self.assertEqual(
                [fault.path for fault in self.faults(text)], ["auth.htpasswd.realm", "auth.htpasswd.path"]
            )
        self.assertEqual(
            [fault.path for fault in self.faults(MINIMAL + "auth: token")],
            [f"auth.token.{key}" for key in ("rootcertbundle", "realm", "service", "issuer")],
        )


class HtpasswdTests(ConfigurationTestCase):
    """``auth.htpasswd``."""

    def with_users(self, content: str | bytes) -> str:
        """A file whose users stand in another."""
        return MINIMAL.replace(", public: true", "") + self.section(self.write(content))

    def section(self, path: str) -> str:
        """The section that names ``path``."""
        return f"auth: {{htpasswd: {{realm: Content Cache, path: {path}}}}}"

    def test_read(self) -> None:
        """Users with hashes of bcrypt are taken, comments and empty lines passed over."""
        users = f"# who may\n\n{USER}\r\n  {USER.replace('2y', '2a')}\n{USER.replace('2y', '2b')}"
        loaded = self.load(self.with_users(users))
        self.assertEqual(loaded.warnings, ())
        assert isinstance(loaded.configuration.auth, HtpasswdAuth)
        self.assertEqual(loaded.configuration.auth.realm, "Content Cache")

    def test_other_hashes(self) -> None:
        """Lines by which nobody can log in are named by their numbers, and never shown."""
        lines = [USER, "bob:$apr1$topsecret", "cat:{SHA}topsecret=", "topsecret", USER[:-1]]
        warnings = self.warnings(self.with_users("\n".join(lines)))
        self.assertEqual(len(warnings), 1)
        self.assertIn("auth.htpasswd.path: lines 2, 3, 4, 5 of ", warnings[0])
        self.assertNotIn("topsecret", warnings[0])

    def test_refused(self) -> None:
        """A file that nobody can log in by is a fault that says how to make one."""
        for content in ("", "# nobody\n", "ann:topsecret", "ann:$apr1$topsecret", b"\xff\x00"):
            fault = self.only_fault(self.with_users(content))
            self.assertIn("add one with: htpasswd -B ", fault.message)
            self.assertNotIn("topsecret", fault.message)
        missing = os.path.abspath(self.mktemp())
        fault = self.only_fault(MINIMAL + self.section(missing))
        self.assertEqual(fault.path, "auth.htpasswd.path")
        self.assertIn(f"make it with: htpasswd -Bc {missing} USER", fault.message)
        self.assertIn("is not a file", self.only_fault(MINIMAL + self.section("/dev")).message)


class TokenTests(ConfigurationTestCase):
    """``auth.token``."""

    def token(self, more: str = "") -> str:
        """A good section, whose keys stand again in ``more`` where they are to be others."""
        given = {part.partition(":")[0].strip() for part in more.split(", ")}
        keys = {**TOKEN, "rootcertbundle": self.write(make("tokens").pem)}
        listed = [f"{key}: {value}" for key, value in keys.items() if key not in given]
        return PRIVATE + "auth: {token: {" + ", ".join([*listed, *([more] if more else [])]) + "}}"

    def test_read(self) -> None:
        """Every key is read into its field; all algorithms with public keys are the default."""
        found = self.load(self.token()).configuration.auth
        assert isinstance(found, TokenAuth)
        self.assertEqual((found.realm, found.service, found.issuer), (TOKEN["realm"], "s", "i"))
        self.assertEqual((found.signingalgorithms, found.jwks), (ALGORITHMS, None))
        path = self.write(json.dumps({"keys": [KEY]}))
        more = f"realm: r, jwks: {path}, autoredirect: true, autoredirectpath: /t, signingalgorithms: [PS512]"
        found = self.load(self.token(more)).configuration.auth
        assert isinstance(found, TokenAuth)
        self.assertEqual((found.realm, found.autoredirectpath, found.jwks), ("r", "/t", path))
        self.assertEqual(found.signingalgorithms, ("PS512",))

    def test_realm_as_written(self) -> None:
        """A realm is what clients get: a slash at its end and a query stay."""
        found = self.load(self.token("realm: 'https://Auth.example/t/?a=b'")).configuration.auth
        assert isinstance(found, TokenAuth)
        self.assertEqual(found.realm, "https://Auth.example/t/?a=b")

    def test_faulty(self) -> None:
        """Every wrong value is one fault at its place."""
        for more, told in FAULTY_TOKENS.items():
            self.assert_told(self.token(more), f"auth.token{told}")
            self.assertNotIn("topsecret", "".join(self.told(self.token(more))))

    def test_no_keys(self) -> None:
        """Files without keys are faults, and so is no file at all; secret keys are warned of."""
        for content in ("", "[]", "{}", '{"keys": []}', '{"keys": [5, {"kty": "oct", "k": "topsecret"}]}'):
            fault = self.only_fault(self.token(f"jwks: {self.write(content)}"))
            self.assertEqual(fault.path, "auth.token.jwks")
            self.assertNotIn("topsecret", fault.message)
        self.assert_told(self.token("rootcertbundle: "), "auth.token.rootcertbundle: is required, or jwks")
        path = self.write(json.dumps({"keys": [KEY, {**KEY, "d": "topsecret"}]}))
        warnings = self.warnings(self.token(f"jwks: {path}"))
        self.assertEqual(len(warnings), 1)
        self.assertIn("are secret; keep only public ones here", warnings[0])
        self.assertNotIn("topsecret", warnings[0])

    def test_idle_path(self) -> None:
        """A path of a redirect that is off is warned of."""
        warnings = self.warnings(self.token("autoredirectpath: /t"))
        self.assertIn("autoredirectpath: has no effect without autoredirect: true", warnings[0])

    def test_environment(self) -> None:
        """Variables reach the section in any case, its list by index, and the keys of an upstream."""
        options = "REGISTRY_MIDDLEWARE_REGISTRY_0_OPTIONS"
        environ = {
            "REGISTRY_AUTH_TOKEN_REALM": "https://b.example",
            "REGISTRY_AUTH_TOKEN_SIGNINGALGORITHMS_0": "ES256",
            f"{options}_UPSTREAMS_0_EXEC_COMMAND": "sh",
            f"{options}_UPSTREAMS_0_EXEC_LIFETIME": "1h",
            f"{options}_SIGNING_ISSUER": "https://a.example",
        }
        loaded = self.load(self.token(), environ)
        self.assertEqual(loaded.warnings, ())
        assert isinstance(loaded.configuration.auth, TokenAuth)
        self.assertEqual(loaded.configuration.auth.realm, "https://b.example")
        self.assertEqual(loaded.configuration.auth.signingalgorithms, ("ES256",))
        program = loaded.configuration.downstream.upstreams[0].credential_helper
        assert program is not None
        self.assertEqual((program.command, program.lifetime), (("sh",), 3600.0))


class PlainHttpTests(ConfigurationTestCase):
    """Credentials on a line without TLS."""

    def plain(self, text: str) -> list[str]:
        """The warnings about it."""
        return [warning for warning in load(self.write(text), {}).warnings if PLAIN in warning]

    def test_warned(self) -> None:
        """Credentials that are passed on, or checked here, are worth exactly one warning at ``http.addr``."""
        auth = f"auth: {{htpasswd: {{realm: r, path: {self.write(USER)}}}}}"
        two = with_options("upstreams: [{originhost: 'https://a', public: true}, {originhost: 'https://b'}]")
        for text, what in (
            (PRIVATE, "passes on to the origin"),
            (two, "passes on"),
            (MINIMAL + auth, "checks by the section auth"),
        ):
            (warning,) = self.plain(text)
            self.assertIn(":3: http.addr: clients send their passwords and tokens", warning)
            self.assertIn(what, warning)

    def test_not_warned(self) -> None:
        """With TLS, on a Unix socket, or where no credentials are used, there is nothing to warn of."""
        made = make("cache")
        tls = f'":5000", tls: {{certificate: {self.write(made.pem)}, key: {self.write(made.key_pem())}}}'
        for text in (
            MINIMAL,
            PRIVATE.replace('":5000"', tls),
            PRIVATE.replace('":5000"', "/run/cache.sock, net: unix"),
        ):
            self.assertEqual(self.plain(text), [])
