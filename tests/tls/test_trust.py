"""Tests for ``contentcache.tls.trust``."""

from __future__ import annotations

import gc
import os
from functools import partial
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.files import TLSConfigurationError
from contentcache.tls.server import ServerContext
from contentcache.tls.trust import CertificateRefusedError, UpstreamTrust, UpstreamTrusts
from tests.tls.certificates import Made, make
from tests.tls.handshakes import Handshake

HOST = b"registry.example.com"


class UpstreamTrustCase(SynchronousTestCase):
    """An authority, and servers with its certificates."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        self.authority = make("authority", authority=True)
        self.cas, _ = self.authority.write(self.folder, "cas")

    def server(self, identity: Made, *chain: Made, **more: Any) -> ServerContext:
        """A server with a certificate and a chain."""
        certificate, key = identity.write(self.folder, "server")
        Path(certificate).write_bytes(b"".join(made.pem for made in (identity, *chain)))
        return ServerContext(ServerTLS(certificate, key, **more))

    def meet(self, trust: UpstreamTrust, server: Any, host: bytes = HOST) -> Handshake:
        """A handshake between the two."""
        return Handshake(trust.creatorForNetloc(host, 443), server)

    def refused(self, met: Handshake) -> str:
        """Why the client refused; the server has received nothing from it by then."""
        self.assertFalse(met.succeeded)
        self.assertEqual(b"", met.server.received)
        assert met.client.reason is not None
        self.assertIsInstance(met.client.reason.value, CertificateRefusedError)
        return str(met.client.reason.value)


class UpstreamTrustTests(UpstreamTrustCase):
    """Which certificates a client trusts."""

    def test_authority(self) -> None:
        """Certificates of an authority in ``cas`` are trusted, directly or by an intermediate."""
        trust = UpstreamTrust([self.cas])
        intermediate = make("intermediate", signed_by=self.authority, authority=True)
        direct = make("direct", signed_by=self.authority, hosts=(HOST.decode(),))
        below = make("below", signed_by=intermediate, hosts=("*.example.com",))
        self.assertTrue(self.meet(trust, self.server(direct)).succeeded)
        self.assertTrue(self.meet(trust, self.server(below, intermediate)).succeeded)
        self.assertIn("not trusted", self.refused(self.meet(trust, self.server(below))))

    def test_leaf_and_intermediate_as_anchors(self) -> None:
        """The next hop's own certificate in ``cas`` is enough, and so is an intermediate without its root."""
        unknown = make("unknown", authority=True)
        intermediate = make("intermediate", signed_by=unknown, authority=True)
        leaf = make("leaf", signed_by=intermediate, hosts=(HOST.decode(),))
        own = make("own", hosts=(HOST.decode(),))
        for anchor, shown in [(leaf, leaf), (intermediate, leaf), (own, own)]:
            cas, _ = anchor.write(self.folder, "anchor")
            self.assertTrue(self.meet(UpstreamTrust([cas]), self.server(shown)).succeeded)

    def test_anchored_leaf_is_for_its_names_only(self) -> None:
        """A leaf in ``cas`` is neither valid for other hosts nor an authority."""
        leaf = make("leaf", hosts=("other.example.com",))
        cas, _ = leaf.write(self.folder, "anchor")
        self.assertIn("other names", self.refused(self.meet(UpstreamTrust([cas]), self.server(leaf))))
        forged = make("forged", signed_by=leaf, hosts=(HOST.decode(),))
        self.refused(self.meet(UpstreamTrust([cas]), self.server(forged, leaf)))

    def test_system_roots_do_not_vouch_for_strangers(self) -> None:
        """Without ``cas`` a private authority is not trusted."""
        identity = make("server", signed_by=self.authority, hosts=(HOST.decode(),))
        self.assertIn("not trusted", self.refused(self.meet(UpstreamTrust(), self.server(identity))))

    def test_names(self) -> None:
        """The certificate has to name the host, by name or address; common names do not count."""
        trust = UpstreamTrust([self.cas])
        for hosts, host, expected in [
            ((HOST.decode(),), HOST, True),
            ((HOST.decode(),), HOST.upper(), True),
            ((HOST.decode(),), HOST + b".", True),
            (("*.example.com",), HOST, True),
            (("*.example.com",), b"a.b.example.com", False),
            (("example.com",), HOST, False),
            ((), HOST, False),
            (("192.0.2.1",), b"192.0.2.1", True),
            (("192.0.2.2",), b"192.0.2.1", False),
            (("2001:db8::1",), b"2001:db8::1", True),
            (("2001:db8::1",), b"[2001:DB8:0::1]", True),
            (("my_registry",), b"my_registry", True),
        ]:
            with self.subTest(hosts=hosts, host=host):
                identity = make(HOST.decode(), signed_by=self.authority, hosts=hosts)
                met = self.meet(trust, self.server(identity), host)
                self.assertEqual(expected, met.succeeded)
                if not expected:
                    self.assertIn("is for other names", self.refused(met))

    def test_server_name(self) -> None:
        """The name is sent for SNI, without a dot at the end; an address is not."""
        identity = make("server", signed_by=self.authority, hosts=(HOST.decode(), "192.0.2.1"))
        trust = UpstreamTrust([self.cas])
        for host, expected in [(HOST + b".", HOST), (b"192.0.2.1", None)]:
            met = self.meet(trust, self.server(identity), host)
            self.assertEqual(expected, met.server_connection.get_servername())

    def test_expired(self) -> None:
        """An expired certificate is refused, and the sentence says so."""
        identity = make("server", signed_by=self.authority, hosts=(HOST.decode(),), expired=True)
        reason = self.refused(self.meet(UpstreamTrust([self.cas]), self.server(identity)))
        self.assertEqual("the certificate of registry.example.com has expired", reason)

    def test_both_versions_and_protocol(self) -> None:
        """TLS 1.2 and 1.3 are supported, and only http/1.1 is offered."""
        identity = make("server", signed_by=self.authority, hosts=(HOST.decode(),))
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            server = self.server(identity)
            context = server.context
            offered: list[bytes] = []
            context.set_alpn_select_callback(partial(_choose_and_note, offered))
            context.set_max_proto_version(version)
            self.assertTrue(self.meet(UpstreamTrust([self.cas]), server).succeeded)
            self.assertEqual([b"http/1.1"], offered)

    def test_cheapest_cipher_first(self) -> None:
        """A server that follows the client's order chooses the shorter key of TLS 1.3."""
        identity = make("server", signed_by=self.authority, hosts=(HOST.decode(),))
        met = self.meet(UpstreamTrust([self.cas]), self.server(identity))
        self.assertEqual("TLS_AES_128_GCM_SHA256", met.client_connection.get_cipher_list()[0])

    def test_client_certificate(self) -> None:
        """A client certificate is sent where an upstream requests one; key and certificate may be one file."""
        identity = make("server", signed_by=self.authority, hosts=(HOST.decode(),))
        ours = make("ours", signed_by=self.authority, client=True)
        certificate, key = ours.write(self.folder, "ours")
        server = self.server(identity, clientcas=(self.cas,))
        self.assertTrue(self.meet(UpstreamTrust([self.cas], certificate, key), server).succeeded)
        self.assertFalse(self.meet(UpstreamTrust([self.cas]), server).succeeded)
        Path(certificate).write_bytes(ours.pem + ours.key_pem())
        self.assertTrue(self.meet(UpstreamTrust([self.cas], certificate), server).succeeded)

    def test_no_system_roots(self) -> None:
        """Without roots of the system certificates of ``cas`` are still trusted."""
        nowhere = str(Path(self.folder) / "nowhere")
        for variables in [(nowhere, nowhere), (self.folder, self.folder), (self.cas + "x", "")]:
            file, directory = variables
            self.patch_environment("SSL_CERT_FILE", file)
            self.patch_environment("SSL_CERT_DIR", directory)
            identity = make("server", signed_by=self.authority, hosts=(HOST.decode(),))
            self.assertTrue(self.meet(UpstreamTrust([self.cas]), self.server(identity)).succeeded)

    def patch_environment(self, name: str, value: str) -> None:
        """Set a variable for this test."""
        before = os.environ.get(name)
        os.environ[name] = value
        if before is None:
            self.addCleanup(os.environ.pop, name, None)
        else:
            self.addCleanup(os.environ.__setitem__, name, before)

    def test_reload(self) -> None:
        """New files are used for new connections; a broken one changes nothing and is named in the error."""
        trust = UpstreamTrust([self.cas])
        renewed = make("renewed", authority=True)
        identity = make("server", signed_by=renewed, hosts=(HOST.decode(),))
        self.refused(self.meet(trust, self.server(identity)))
        renewed.write(self.folder, "cas")
        trust.reload()
        self.assertTrue(self.meet(trust, self.server(identity)).succeeded)
        for content in (b"", b"garbage", None):
            Path(self.cas).unlink() if content is None else Path(self.cas).write_bytes(content)
            error = self.assertRaises(TLSConfigurationError, trust.reload)
            self.assertEqual(self.cas, error.path)
            self.assertIn(self.cas, error.message)
        self.assertTrue(self.meet(trust, self.server(identity)).succeeded)
        self.assertRaises(TLSConfigurationError, UpstreamTrust, [self.cas])


def _choose_and_note(notes: list[bytes], _connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Select http/1.1, and record what was offered."""
    notes.extend(offered)
    return b"http/1.1"


class UpstreamTrustsTests(UpstreamTrustCase):
    """Contexts that are shared."""

    def setUp(self) -> None:
        super().setUp()
        signed = make("signed", signed_by=self.authority, hosts=(HOST.decode(),))
        self.good = self.server(signed)
        client = make("client", signed_by=self.authority, client=True)
        self.client = client.write(self.folder, "shown")

    def test_shared(self) -> None:
        """Equal options share one context; one with another certificate trusts the same authorities."""
        trusts = UpstreamTrusts([self.cas])
        self.assertIs(trusts.trust(), trusts.trust())
        self.assertIs(trusts.trust(*self.client), trusts.trust(*self.client))
        self.assertEqual(len(trusts), 2)
        for trust in (trusts.trust(), trusts.trust(*self.client)):
            self.assertTrue(self.meet(trust, self.good).succeeded)

    def test_certificate_is_for_its_own(self) -> None:
        """A client certificate is used by its own context only."""
        trusts = UpstreamTrusts([self.cas])
        demanding = self.server(
            make("signed", signed_by=self.authority, hosts=(HOST.decode(),)), clientcas=(self.cas,)
        )
        self.assertTrue(self.meet(trusts.trust(*self.client), demanding).succeeded)
        self.assertFalse(self.meet(trusts.trust(), demanding).succeeded)

    def test_reload_of_all(self) -> None:
        """
        Files are read anew for all; where one is broken all keep what they had. No store goes with the one
        that made it.
        """
        trusts = UpstreamTrusts([self.cas])
        both = trusts.trust(), trusts.trust(*self.client)
        Path(self.client[0]).write_text("rubbish", "utf-8")
        make("another", authority=True).write(self.folder, "cas")
        self.assertRaises(TLSConfigurationError, trusts.reload)
        gc.collect()
        for trust in both:
            self.assertTrue(self.meet(trust, self.good).succeeded)
        make("client", client=True).write(self.folder, "shown")
        Path(self.cas).write_bytes(make("another", authority=True).pem)
        trusts.reload()
        gc.collect()
        for trust in both:
            self.refused(self.meet(trust, self.good))
