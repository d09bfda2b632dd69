"""Tests for :mod:`contentcache.acme.renewal_loop`, and for the way from there to the server and back."""

from __future__ import annotations

import os
import shutil
import stat

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.logger import capturedLogs

from contentcache.acme.certificate import Validity
from contentcache.acme.errors import CertificateStoreError
from contentcache.acme.records import CertificateMetadata
from contentcache.config.model import ExternalAccount
from contentcache.telemetry.logging import event_text
from contentcache.tls.files import Identity, TLSConfigurationError
from tests.acme.renewal_case import BEGINNING, HOST, RenewalTestCase
from tests.acme.server import BASE, Acme, Bad

DAY = 86400.0


class FirstTests(RenewalTestCase):
    """The first certificate."""

    def test_issue(self) -> None:
        """
        The first certificate is ordered at once, shown, counted and stored, in files of the daemon's account
        alone.
        """
        self.build(email="ops@example.com")
        self.pass_time(5)
        self.assertNotEqual(self.number(), 0)
        self.assertEqual(self.counted, [(HOST, True)])
        self.assertEqual(self.server.payloads["/account"]["contact"], ["mailto:ops@example.com"])
        for name in (f"{HOST}.pem", f"{HOST}.json", "account/key.pem", "account/urls.json"):
            self.assertEqual(stat.S_IMODE(self.file(name).stat().st_mode), 0o600, name)
        self.assertEqual(self.http.answer(HOST, "token-1"), None)

    def test_several(self) -> None:
        """Each host has a certificate of its own, from one account; a refused host delays no other."""
        self.server.troubles = [("/order", Bad("rejectedIdentifier", "not a.example", 400))]
        self.build("a.example", "b.example")
        self.pass_time(30)
        self.assertNotIn("a.example", self.shown)
        self.assertIn("not a.example (rejectedIdentifier)", self.error("a.example"))
        self.assertIn("b.example", self.shown)
        self.pass_time(60)
        self.assertIn("a.example", self.shown)
        self.assertEqual(self.server.count("POST /account"), 1)

    def test_one_hangs(self) -> None:
        """Hosts for which the server never responds delay no other host; few hosts are renewed at the same time."""
        order, slow = self.server._order, [f"{letter}.example" for letter in "abcdef"]

        def hanging(path, head, payload):  # type: ignore[no-untyped-def]
            status, more, document = order(path, head, payload)
            if document["host"] in slow:
                document = {**document, "authorizations": [f"{BASE}/never/{document['host']}"]}
            return status, more, document

        self.patch(type(self.server), "_order", lambda _self, *arguments: hanging(*arguments))
        self.server.hangs_at = "/never"
        renewal_loop = self.build(*slow[:3], HOST, *slow[3:])
        self.pass_time(5)
        self.assertEqual(list(self.shown), [HOST])
        self.assertEqual(self.server.count("/never/"), 4)
        self.assertEqual(self.server.count("POST /account"), 1)
        self.pass_time(60)
        self.assertEqual(
            {line for line in self.server.asked if "/never/f" in line}, {"POST /never/f.example"}
        )
        waiting = renewal_loop.renew([HOST, slow[5]])
        self.stop()
        self.assertEqual([self.successResultOf(each).says for each in waiting], ["the daemon stops"] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nonces(self) -> None:
        """A nonce that the server refuses is replaced."""
        self.server.refused_nonces = 7
        self.build()
        self.pass_time(5)
        self.assertNotEqual(self.number(), 0)

    def test_external_account(self) -> None:
        """An external account binding is sent where it is configured; a missing or wrong one is reported."""
        self.server.eab = ("kid-1", b"secret of the authority")
        self.build()
        self.pass_time(5)
        self.assertIn("letsencrypt.eab", self.error())
        self.stop()
        self.build(eab=ExternalAccount("kid-1", b"mistyped"))
        self.pass_time(5)
        self.assertIn("the MAC of the binding is wrong (unauthorized); look at letsencrypt.eab", self.error())
        self.assertNotIn("DNS", self.error())
        self.stop()
        self.build(eab=ExternalAccount("kid-1", b"secret of the authority"))
        self.pass_time(5)
        self.assertNotEqual(self.number(), 0)

    def test_only_challenge(self) -> None:
        """With ``challenge`` no other challenge is used; one that the server does not offer is reported."""
        self.build(challenge="tls-alpn-01")
        self.pass_time(5)
        self.assertEqual(self.server.count("/http-01"), 0)
        self.stop()
        shutil.rmtree(self.folder)
        self.server.offered = ("dns-01",)
        self.build(challenge="tls-alpn-01")
        self.pass_time(5)
        self.assertIn("offers no challenge tls-alpn-01 for cache.example.com, but dns-01", self.error())

    def test_other_challenge(self) -> None:
        """When one challenge fails, the other one is tried with a new order."""
        self.http.start = lambda *_: None  # type: ignore[method-assign]
        self.build()
        self.pass_time(5)
        self.assertNotEqual(self.number(), 0)
        self.assertEqual(self.server.count("POST /order"), 4)  # two orders, and a look at each by the second
        self.assertEqual([self.server.count(f"/{kind}") for kind in ("http-01", "tls-alpn-01")], [1, 1])

    def test_polling(self) -> None:
        """The authorization is polled, soon at first and less often later."""
        self.server.authorization_polls = 3
        self.build()
        self.pass_time(
            2.5, 0.125
        )  # polls after 0, 1/8, 3/8 and 7/8 s, and then one second for the certificate
        self.assertNotEqual(self.number(), 0)
        self.stop()
        shutil.rmtree(self.folder)
        self.server.authorization_polls = 99
        self.build()
        before = self.server.count("/authz/")
        self.pass_time(60)
        self.assertTrue(30 < self.server.count("/authz/") - before < 36)

    def test_valid_already(self) -> None:
        """An authorization that is still valid from an earlier order needs no challenge."""
        order = self.server._order

        def believed(path, head, payload):  # type: ignore[no-untyped-def]
            answer = order(path, head, payload)
            if payload is not None:
                number = answer[1]["Location"].rpartition("/")[2]
                self.server._authorizations[f"/authz/{number}"].update(status="valid", challenges=[])
                answer[2]["status"] = "ready"
            return answer

        self.patch(type(self.server), "_order", lambda _self, *arguments: believed(*arguments))
        self.build()
        self.pass_time(5)
        self.assertNotEqual(self.number(), 0)
        self.assertEqual(self.server.count("/chall"), 0)


class RenewalTests(RenewalTestCase):
    """The certificates after the first."""

    def test_in_time(self) -> None:
        """Renewal is in the last third of the lifetime or shortly before, whatever the lifetime."""
        for lifetime in (90 * DAY, 6 * DAY, 60.0):
            self.server.lifetime = lifetime
            self.build()
            self.pass_time(5)
            first, start = self.number(), self.clock.seconds()
            while self.number() == first:
                self.pass_time(lifetime / 200, lifetime / 200)
            share = (self.clock.seconds() - start + 5) / lifetime
            self.assertTrue(0.6 < share < 0.75, (lifetime, share))
            self.stop()
            shutil.rmtree(self.folder)
            self.shown.clear()

    def test_suggestion(self) -> None:
        """
        The server's renewal window counts, is polled as its ``Retry-After`` says, and the order names the old
        certificate.
        """
        self.server.suggested = (10 * DAY, 10 * DAY + 60)
        self.build()
        self.pass_time(5)
        first = self.number()
        self.assertEqual(self.server.count("/ari/"), 1)
        self.pass_time(3700, 50)
        self.assertEqual(self.server.count("/ari/"), 2)
        self.server.suggested = (-60.0, -30.0)
        self.pass_time(3700, 50)
        self.assertNotEqual(self.number(), first)
        self.assertRegex(self.server.payloads["/order"]["replaces"], r"^[\w-]+\.[\w-]+$")

    def test_replaced_already(self) -> None:
        """Where the server has replaced the old certificate already, an order without ``replaces`` follows."""
        self.server.suggested = (DAY, DAY)
        self.build()
        self.pass_time(5)
        first = self.number()
        self.server.suggested = (-60.0, -30.0)
        self.server.troubles = [("/order", Bad("conflict", status=409))]
        self.pass_time(3700, 50)
        self.assertNotEqual(self.number(), first)
        self.assertNotIn("replaces", self.server.payloads["/order"])
        orders = self.server.count("POST /order")
        self.server.troubles = [("/order", Bad("rateLimited", status=429))]
        assert self.renewal_loop is not None
        self.renewal_loop.renew([HOST])
        self.pass_time(5)
        self.assertIn("(rateLimited)", self.error())
        self.assertEqual(self.server.count("POST /order") - orders, 1)

    def test_no_renewal_information(self) -> None:
        """
        A server that never sends renewal information delays neither showing nor storing a certificate, nor
        other hosts, nor the outcome of a requested renewal.
        """
        self.server.suggested, self.server.hangs_at = (10 * DAY, 10 * DAY), "/ari/"
        renewal_loop = self.build("a.example", "b.example")
        [waiting] = renewal_loop.renew(["a.example"])
        self.pass_time(10)
        self.assertTrue(self.successResultOf(waiting).is_new)
        for host in ("a.example", "b.example"):
            self.assertIn(host, self.shown)
            self.assertTrue(self.file(f"{host}.pem").exists())
        self.stop()
        self.server.hangs_at = ""
        self.build("a.example", "b.example")
        self.pass_time(10)
        self.assertEqual(self.server.count("/finalize"), 2)
        for host in ("a.example", "b.example"):
            self.assertIsNotNone(self.store.metadata(host).suggested)

    def test_malformed_window(self) -> None:
        """Malformed renewal information changes nothing, and is polled again."""
        self.server.suggested = (10 * DAY, 10 * DAY)
        self.build()
        self.pass_time(5)
        kept = self.store.metadata(HOST)
        for odd in (b"[", b"[" * 99_999, b"[]", b"{}", b'{"suggestedWindow": {"start": "soon", "end": 5}}'):
            self.server.odd_suggestion = odd
            self.pass_time(6 * 3600 + 60, 60)
            note = self.store.metadata(HOST)
            self.assertEqual(note.suggested, kept.suggested)
            self.assertGreater(note.ask_again or 0.0, self.wall())
        self.assertEqual(self.server.count("/ari/"), 6)

    def test_restart(self) -> None:
        """A restart sends the server nothing, and does not change the renewal time."""
        self.server.suggested = (10 * DAY, 10 * DAY)
        self.build()
        self.pass_time(5)
        self.stop()
        before = len(self.server.asked)
        self.build()
        self.pass_time(1800, 60)
        self.assertEqual(len(self.server.asked), before)
        kept = self.store.load_certificate(HOST)
        assert kept is not None
        due = Validity.of(kept.identity.chain[0]).renewal_time(kept.metadata.suggested)
        self.assertLess(abs(due - BEGINNING - 10 * DAY), 60)

    def test_other_server(self) -> None:
        """A certificate of another ACME server, for tests perhaps, is replaced at once."""
        self.build()
        self.pass_time(5)
        first = self.number()
        self.stop()
        note = self.file(f"{HOST}.json")
        note.write_text(note.read_text().replace("acme.example", "staging.example"))
        self.build()
        self.pass_time(5)
        self.assertNotEqual(self.number(), first)

    def test_requested(self) -> None:
        """A requested renewal happens now, and reports its outcome."""
        renewal_loop = self.build()
        self.pass_time(5)
        first = self.number()
        [waiting] = renewal_loop.renew([HOST])
        self.pass_time(5)
        outcome = self.successResultOf(waiting)
        self.assertTrue(outcome.is_new)
        self.assertIn("Memory CA", outcome.says)
        self.assertNotEqual(self.number(), first)
        self.server.is_away = True
        [waiting] = renewal_loop.renew([HOST])
        self.pass_time(5)
        outcome = self.successResultOf(waiting)
        self.assertEqual((outcome.is_new, "cannot be asked" in outcome.says), (False, True))

    def test_coalesced(self) -> None:
        """A request during another one, or during an attempt, is coalesced with it."""
        renewal_loop = self.build("a.example", "b.example")
        waiting = [*renewal_loop.renew(["a.example", "b.example"]), *renewal_loop.renew(["a.example"])]
        self.pass_time(0.5)
        self.assertNoResult(waiting[0])
        waiting += renewal_loop.renew(["a.example"])
        self.pass_time(10)
        self.assertEqual([self.successResultOf(each).is_new for each in waiting], [True] * 4)
        self.assertEqual(self.server.count("/finalize"), 2)

    def test_requested_and_failed(self) -> None:
        """A requested renewal that fails is retried when the log says so."""
        renewal_loop = self.build()
        self.pass_time(5)
        first = self.number()
        self.server.is_away = True
        renewal_loop.renew([HOST])
        self.pass_time(15)
        self.assertEqual(self.server.count("GET /dir"), 4)  # for it, when to renew it, and twice in vain
        self.assertEqual(renewal_loop.health(renewal_loop.states[HOST])[0], "warn")
        self.server.is_away = False
        self.pass_time(20)
        self.assertNotEqual(self.number(), first)
        self.assertEqual((self.error(), renewal_loop.health(renewal_loop.states[HOST])[0]), ("", "ok"))
        self.pass_time(DAY, 30)
        self.assertEqual(self.server.count("/finalize"), 2)

    def test_requested_at_shutdown(self) -> None:
        """A request to a daemon that stops is answered so."""
        self.server.hangs = True
        renewal_loop = self.build()
        [waiting] = renewal_loop.renew([HOST])
        self.stop()
        self.assertFalse(self.successResultOf(waiting).is_new)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ErrorTests(RenewalTestCase):
    """Errors of the server, the clock, the disk and the daemon."""

    def test_server_down(self) -> None:
        """A server that is down is contacted again with a growing backoff."""
        self.server.is_away = True
        self.build()
        self.pass_time(300)
        self.assertEqual(self.server.count("GET /dir"), 5)  # after 0, 10, 30, 70, 150 s
        self.assertIn("the ACME server at https://acme.example/dir cannot be asked", self.error())
        self.server.is_away = False
        self.pass_time(20)
        self.assertNotEqual(self.number(), 0)
        self.assertEqual(self.error(), "")

    def test_response_is_lost(self) -> None:
        """
        A request whose response was lost is not repeated at once: the server may have processed it. The log
        says so once.
        """
        for place, asked in (("/account", 4), ("/order", 4), ("/finalize", 1)):
            self.server.loses_at, self.server.losses = place, 99
            before = self.server.count(f"POST {place}")
            self.build()
            self.pass_time(600)  # after 0, 60, 180 and 420 s
            found = self.server.count(f"POST {place}") - before
            self.assertLessEqual(found, asked, place)
            self.assertGreater(found, 0, place)
            self.stop()
            shutil.rmtree(self.folder)
        self.server.loses_at = "/order"
        self.build()
        self.pass_time(1)
        self.assertEqual(
            self.error(),
            "the connection to the ACME server at https://acme.example/dir was lost before its response was "
            "complete; the server may have processed the request",
        )

    def test_no_download(self) -> None:
        """
        A certificate that was issued and cannot be downloaded is downloaded later, within the attempt, in the
        next ones, and after a restart; no new order is created.
        """
        self.server.troubles = [("/cert", Bad("serverInternal", status=500))] * 3
        self.build()
        self.pass_time(30)
        self.assertEqual((self.counted, self.server.count("/finalize")), ([(HOST, True)], 1))
        self.assertFalse(self.file(f"{HOST}.order.json").exists())
        self.stop()
        shutil.rmtree(self.folder)
        self.server.troubles = [("/cert", Bad("serverInternal", status=500))] * 6
        self.build()
        self.pass_time(25)
        self.assertEqual(self.counted, [(HOST, True), (HOST, False)])
        order = self.file(f"{HOST}.order.json")
        self.assertEqual(stat.S_IMODE(order.stat().st_mode), 0o600)
        self.stop()
        self.build()
        self.pass_time(25)
        self.assertEqual(self.counted, [(HOST, True), (HOST, False), (HOST, True)])
        self.assertEqual(self.server.count("/finalize"), 2)
        self.assertFalse(order.exists())

    def test_still_processing(self) -> None:
        """The same for an order that the server is processing, however long that takes."""
        self.server.certificate_polls = 200
        self.build()
        self.pass_time(4000, 5)
        self.assertEqual((self.counted[-1], self.server.count("/finalize")), ((HOST, True), 1))

    def test_unreadable_download(self) -> None:
        """
        Where the download is no certificate it is tried once more after an hour, and then a new order is
        created.
        """
        self.patch(Acme, "signed", lambda *_: b"<html>")
        self.build()
        self.pass_time(3600, 10)
        self.assertEqual(self.server.count("/finalize"), 1)
        self.assertIn("is no chain of certificates; ask the certificate authority", self.error())
        self.pass_time(100, 10)
        self.assertEqual(self.server.count("/finalize"), 2)
        self.pass_time(7100, 10)
        self.assertEqual(self.server.count("/finalize"), 2)

    def test_failed_order(self) -> None:
        """A finalized order that the server refuses is not followed by another one within an hour."""
        self.server.troubles = [("/finalize", Bad("caa", "CAA forbids", 403))]
        self.build()
        self.pass_time(3500, 10)
        self.assertIn("CAA forbids (caa); the DNS record CAA", self.error())
        self.assertEqual(self.server.count("/finalize"), 1)
        self.pass_time(200, 10)
        self.assertNotEqual(self.number(), 0)
        for status, loss in (("invalid", 1), ("pending", 2)):
            self.server.loses_at, self.server.losses = "/finalize", 1
            before = self.server.count("/finalize")
            renewal_loop = self.renewal_loop
            assert renewal_loop is not None
            [waiting] = renewal_loop.renew([HOST])
            self.pass_time(5)
            self.assertFalse(self.successResultOf(waiting).is_new)
            for order in self.server._orders.values():
                order.update(status=status, error={})
            self.pass_time(3600, 10)
            self.assertEqual(self.server.count("/finalize") - before, loss)
            self.pass_time(3700, 10)
            self.assertEqual((self.error(), self.server.count("/finalize") - before), ("", 2))

    def test_poll_is_lost(self) -> None:
        """A poll whose response was lost is repeated at once."""
        self.server.loses_at, self.server.losses = "/authz", 1
        self.build()
        self.pass_time(5)
        self.assertEqual((self.counted, self.server.count("POST /order")), ([(HOST, True)], 3))

    def test_nonces_are_refused(self) -> None:
        """A server that refuses all its nonces gets a few requests only."""
        self.server.refused_nonces = 999
        self.build()
        self.pass_time(5)
        self.assertEqual(self.server.count("POST "), 10)
        self.assertEqual(self.error(), "the ACME server has refused 10 nonces of its own in a row")

    def test_plain_urls(self) -> None:
        """A server that is contacted over TLS gets no request over plain HTTP, whatever URLs it names."""
        order = self.server._order

        def plain(path, head, payload):  # type: ignore[no-untyped-def]
            status, more, document = order(path, head, payload)
            return status, more, {**document, "authorizations": ["http://acme.example/authz/1"]}

        self.patch(type(self.server), "_order", lambda _self, *arguments: plain(*arguments))
        self.build()
        self.pass_time(5)
        self.assertIn("names a URL that is not https, and is not asked there", self.error())
        self.assertEqual(self.server.count("http:"), 0)

    def test_undecided(self) -> None:
        """Where the server never decides on an authorization, the log says what to look at."""
        self.server.authorization_polls = 999
        self.build()
        self.pass_time(320)
        self.assertIn("has not validated cache.example.com in time; it may be slow", self.error())

    def test_slow_response(self) -> None:
        """A response has to be whole within its timeout, however steadily it comes."""
        self.server.trickles_at = "/dir"
        self.build()
        self.pass_time(61)
        self.assertIn("cannot be asked: its response is not complete after 60 s; look at", self.error())
        self.server.trickles_at = ""
        self.pass_time(20)
        self.assertNotEqual(self.number(), 0)

    def test_slow_renewal_information(self) -> None:
        """Renewal does not wait for renewal information: its timeout is short, and ends when renewal is due."""
        for lifetime, before_due in ((90 * DAY, 40.0), (600.0, 10.0)):
            self.server.lifetime, self.server.suggested = lifetime, (10 * DAY, 10 * DAY)
            self.build()
            self.pass_time(5)
            first = self.number()
            kept = self.store.load_certificate(HOST)
            assert kept is not None
            self.stop()
            self.store.save_metadata(HOST, CertificateMetadata(kept.metadata.server, None, 0.0))
            self.server.trickles_at = "/ari/"
            due = Validity.of(kept.identity.chain[0]).renewal_time()
            self.pass_time(due - self.wall() - before_due, 3600)
            self.build()
            self.pass_time(before_due - 1)
            self.assertEqual(self.number(), first)
            self.pass_time(4)
            self.assertNotEqual(self.number(), first, lifetime)
            self.stop()
            shutil.rmtree(self.folder)
            self.server.trickles_at = ""

    def test_hangs(self) -> None:
        """A server that does not respond is given up after the timeout."""
        self.server.hangs = True
        self.build()
        self.pass_time(35)
        self.assertIn("does not answer within 30 s", self.error())

    def test_old_certificate_stays(self) -> None:
        """While renewals fail the old certificate stays; its health warns before it expires."""
        renewal_loop = self.build()
        self.pass_time(5)
        first = self.number()
        self.assertEqual(renewal_loop.health(renewal_loop.states[HOST])[0], "ok")
        self.server.is_away = True
        self.pass_time(75 * DAY, 3600)
        state, says = renewal_loop.health(renewal_loop.states[HOST])
        self.assertEqual((state, self.number()), ("warn", first))
        self.assertIn("not renewed yet", says)
        self.assertGreater(renewal_loop.expiry(HOST) - self.wall(), 10 * DAY)
        self.pass_time(20 * DAY, 3600)
        self.assertIn("expired", renewal_loop.health(renewal_loop.states[HOST])[1])
        self.assertLess(renewal_loop.expiry(HOST), self.wall())

    def test_rate_limited(self) -> None:
        """``Retry-After`` is obeyed, after a restart too."""
        self.server.troubles = [("/order", Bad("rateLimited", "too many", 429, Retry_After="7200"))]
        renewal_loop = self.build()
        self.pass_time(3000, 10)
        again = renewal_loop.next_attempt(renewal_loop.states[HOST])
        self.stop()
        with capturedLogs() as told:
            renewal_loop = self.build()  # a restart is no reason to ask sooner
        [says] = [event_text(event) for event in told if "after restart" in event["log_format"]]
        self.assertIn(f"host={HOST} retry_in=1h10m", says)
        self.assertEqual(renewal_loop.next_attempt(renewal_loop.states[HOST]), again)
        self.assertLess(abs((again or 0.0) - BEGINNING - 7200), 1)
        self.pass_time(4100, 10)
        self.assertEqual(self.server.count("POST /order"), 1)
        self.assertIn("too many (rateLimited); wait", self.error())
        self.pass_time(200, 10)
        self.assertNotEqual(self.number(), 0)
        self.assertEqual(
            (renewal_loop.next_attempt(renewal_loop.states[HOST]), self.store.backoff(HOST)), (None, None)
        )

    def test_failed_challenge(self) -> None:
        """The server's reason is reported, with what to do, and no responder goes on answering."""

        def nowhere(*_: str) -> None:
            raise Bad("dns", "NXDOMAIN looking up A", 400)

        self.server.validate = nowhere
        self.build()
        self.pass_time(5)
        self.assertIn("could not verify cache.example.com: NXDOMAIN looking up A (dns)", self.error())
        self.assertIn("must have DNS records", self.error())
        self.assertEqual((self.alpn.answers, self.http._answers), ({}, {}))

    def test_account_is_gone(self) -> None:
        """A server that has lost the account gets a new one."""
        self.build()
        self.pass_time(5)
        first = self.number()
        self.server._keys.clear()
        assert self.renewal_loop is not None
        self.renewal_loop.renew([HOST])
        self.pass_time(5)
        self.assertNotEqual(self.number(), first)
        self.assertEqual(self.server.count("POST /account"), 2)

    def test_account_is_refused(self) -> None:
        """A refused account is not reported as an error of the host."""
        self.server.troubles = [("/order", Bad("unauthorized", "the account is deactivated", 403))]
        self.build()
        self.pass_time(5)
        self.assertIn("the account is deactivated (unauthorized); it is the account", self.error())

    def test_clock_ahead(self) -> None:
        """A clock that is ahead creates no orders: by the server's clock nothing is due."""
        self.build()
        self.pass_time(5)
        first = self.number()
        self.offset += 80 * DAY
        self.pass_time(4000, 60)
        self.assertEqual((self.number(), self.server.count("POST /account")), (first, 1))
        self.assertIn("the clock of this machine is 1920h ahead of the ACME server's", self.error())

    def test_nothing_is_due_any_more(self) -> None:
        """When a wrong clock is set, or the server suggests a later window, the last error is cleared."""
        self.server.suggested = (10 * DAY, 10 * DAY)
        renewal_loop = self.build()
        self.pass_time(5)
        first = self.number()
        self.offset += 80 * DAY
        self.pass_time(3700, 50)
        self.assertIn("the clock of this machine", self.error())
        self.offset -= 80 * DAY
        self.pass_time(4 * 3600, 60)
        self.assertEqual((self.error(), renewal_loop.health(renewal_loop.states[HOST])[0]), ("", "ok"))
        self.server.suggested = (-60.0, -60.0)
        self.server.troubles = [("/order", Bad("serverInternal", status=500))] * 99
        self.pass_time(3700, 10)
        self.assertIn("serverInternal", self.error())
        self.server.suggested = (10 * DAY, 10 * DAY)
        self.pass_time(4 * 3600, 10)
        self.assertEqual((self.error(), renewal_loop.health(renewal_loop.states[HOST])[0]), ("", "ok"))
        self.assertEqual(self.number(), first)

    def test_clock_wrong_at_first(self) -> None:
        """With a wrong clock and no certificate one is ordered once, and not again and again."""
        self.offset += 200 * DAY
        self.build()
        self.pass_time(600)
        self.assertLess(self.server.count("/finalize"), 2)
        self.assertNotEqual(self.number(), 0)
        self.assertIn("clock", self.error())

    def test_suggested_at_once(self) -> None:
        """
        A server that suggests to renew every new certificate at once gets few orders, and its certificates
        are used; no attempt counts as failed. Once it suggests a later window the warning ends.
        """
        self.server.suggested = (-60.0, -30.0)
        renewal_loop = self.build()
        self.pass_time(5)
        self.assertNotEqual(self.number(), 0)
        self.assertIn("the ACME server suggests it; nothing is to be done here", self.error())
        self.assertEqual(renewal_loop.health(renewal_loop.states[HOST])[0], "warn")
        self.pass_time(DAY, 30)
        self.assertEqual(self.server.count("/finalize"), 6)  # after 0, 1, 3, 7, 13 and 19 hours
        self.assertEqual(self.counted, [(HOST, True)] * 6)
        self.server.suggested = (10 * DAY, 10 * DAY)
        self.pass_time(DAY, 30)
        self.assertEqual((self.error(), renewal_loop.health(renewal_loop.states[HOST])[0]), ("", "ok"))

    def test_suggested_soon(self) -> None:
        """
        The same for a server that suggests to renew in a few seconds, at once or only in a later poll: each
        certificate is used for an hour at least, and for longer the more there are.
        """
        for later in (False, True):
            self.server.suggested = (30 * DAY, 30 * DAY) if later else (5.0, 6.0)
            self.build()
            self.pass_time(5)
            before = self.server.count("/finalize") - 1
            for _ in range(24):
                self.server.suggested = (5.0, 6.0)
                self.pass_time(3600, 30)
                self.stop()
                self.build()  # a restart forgets none of it
            self.assertEqual(self.server.count("/finalize") - before, 6, later)
            self.stop()
            shutil.rmtree(self.folder)

    def test_nearly_expired_when_issued(self) -> None:
        """The same for certificates whose lifetime is mostly over when they are issued; the clock is not blamed."""
        self.server.begins = -80 * DAY
        self.build()
        self.pass_time(DAY, 30)
        self.assertEqual(self.server.count("/finalize"), 6)
        self.assertRegex(self.error(), "2[34].*h.* are left of its 2160h; ask the certificate authority")

    def test_unusable(self) -> None:
        """
        A certificate that has expired, is not valid yet, or is for another host replaces nothing; the outcome
        of a requested renewal says so; few are ordered.
        """
        renewal_loop = self.build()
        self.pass_time(5)
        first, file = self.number(), self.file(f"{HOST}.pem").read_bytes()
        stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
        for begins, mistaken, said in (
            (-100 * DAY, (None, ""), "a certificate that has ended 2027-01-05"),
            (DAY, (None, ""), "a certificate that begins only 2027-01-16 "),
            (0.0, (None, "b.example"), "has certified b.example, and not cache.example.com"),
            (0.0, (None, f"b.example {HOST}"), f"certified b.example with {HOST}, which was not asked for"),
            (0.0, (stranger, ""), "has certified another key than the one that was asked for"),
        ):
            self.server.begins, self.server.mistaken = begins, mistaken
            [waiting] = renewal_loop.renew([HOST])
            self.pass_time(5)
            outcome = self.successResultOf(waiting)
            self.assertFalse(outcome.is_new, said)
            self.assertIn(said, outcome.says)
            self.assertIn("ask the certificate authority", outcome.says)
            self.assertIn(said, renewal_loop.health(renewal_loop.states[HOST])[1])
            self.assertEqual((self.number(), self.file(f"{HOST}.pem").read_bytes()), (first, file))
        self.assertEqual(renewal_loop.health(renewal_loop.states[HOST])[0], "warn")
        self.assertEqual(self.counted, [(HOST, True)] + [(HOST, False)] * 5)
        self.server.mistaken, self.server.copies = (None, ""), 11
        renewal_loop.renew([HOST])
        self.pass_time(5)
        self.assertIn("a chain of 11 certificates, and no client takes more than 10", self.error())

    def test_cannot_be_shown(self) -> None:
        """
        A certificate that TLS cannot use replaces nothing, and a defect leaves no waiter; neither is retried
        again and again.
        """
        renewal_loop = self.build()
        self.pass_time(5)
        first = renewal_loop.states[HOST].certificate

        def install(_host: str, _identity: Identity) -> None:
            raise failing.pop()

        fault = TLSConfigurationError("", "letsencrypt cannot be used for TLS: key too small")
        failing = [ZeroDivisionError(), fault]
        self.patch(self, "install", install)
        for said in ("cannot be shown: letsencrypt cannot be used for TLS: key too small", "a defect"):
            [waiting] = renewal_loop.renew([HOST])
            self.pass_time(5)
            outcome = self.successResultOf(waiting)
            self.assertEqual((outcome.is_new, said in outcome.says), (False, True), outcome.says)
            self.assertEqual(renewal_loop.states[HOST].certificate, first)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.pass_time(600, 10)
        self.assertEqual(self.server.count("/finalize"), 3)

    def test_unusable_at_first(self) -> None:
        """Nor does such a certificate replace the self-signed one; each is one of few that a server issues."""
        self.server.begins = -100 * DAY
        self.build()
        self.pass_time(DAY, 30)
        self.assertEqual((self.number(), self.server.count("/finalize")), (0, 6))
        self.server.begins = 0.0
        self.pass_time(DAY, 30)
        self.assertNotEqual(self.number(), 0)

    def test_clock_behind(self) -> None:
        """
        While the clock is behind, so that new certificates are not valid yet, a valid one stays, and no more
        orders are created until the clock is set. By then the old one may have expired.
        """
        self.build()
        self.pass_time(5)
        first = self.number()
        self.pass_time(62 * DAY, 3600)
        self.assertNotEqual(self.number(), first)
        first = self.number()
        self.offset -= 2 * DAY
        self.pass_time(66 * DAY, 3600)
        self.assertEqual((self.number(), self.server.count("/finalize")), (first, 3))
        self.assertIn("the clock of this machine is 48h behind the ACME server's", self.error())
        self.assertIn("set the clock", self.error())
        self.offset += 2 * DAY
        self.pass_time(DAY, 3600)
        self.assertNotEqual(self.number(), first)
        self.assertEqual(self.error(), "")

    def test_not_writable(self) -> None:
        """Where nothing can be stored nothing is ordered."""
        self.file(".").parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        with open(self.folder, "w", encoding="ascii"):
            pass
        self.patch(self.store, "load_certificate", lambda _host: None)
        self.build()
        self.pass_time(5)
        self.assertEqual(self.server.asked, [])
        self.assertIn("letsencrypt.cachefile must belong", self.error())

    def test_full_disk(self) -> None:
        """
        A certificate that cannot be stored is shown all the same, and stored when that is possible again. The
        outcome of a requested renewal says so.
        """
        keep = self.store.save_certificate

        def full(*_: object) -> None:
            raise CertificateStoreError("no space", "make some")

        self.store.save_certificate = full  # type: ignore[assignment,method-assign]
        [waiting] = self.build().renew([HOST])
        self.pass_time(5)
        outcome = self.successResultOf(waiting)
        self.assertFalse(outcome.is_new)
        self.assertIn(", but it is not stored: no space; make some", outcome.says)
        self.assertNotEqual(self.number(), 0)
        self.assertIn("no space", self.error())
        self.store.save_certificate = keep  # type: ignore[method-assign]
        self.pass_time(20)
        self.assertEqual(self.error(), "")
        self.assertTrue(os.path.exists(self.file(f"{HOST}.pem")))
        self.assertEqual(self.server.count("/finalize"), 1)

    def test_defect(self) -> None:
        """A defect of ours does not end the renewal loop."""

        def broken(*_: str) -> str:
            raise ZeroDivisionError

        mending = self.patch(self.store, "account_url", broken)
        self.build()
        self.pass_time(5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        mending.restore()
        self.pass_time(30)
        self.assertNotEqual(self.number(), 0)
