"""Wrong tokens at a real daemon: each is 403, costs nobody a byte, and leaves no trace but a line."""

from __future__ import annotations

import time
from urllib.parse import quote

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.images import push_blob
from tests.real.origin import Answer, Origin
from tests.real.programs import needs
from tests.real.signed import NAME, SignedCase
from tests.real.signer import SigningOrigin
from tests.wrong_tokens import WRONG


@needs("docker-registry")
class WrongTokenTests(SignedCase):
    """One origin."""

    def setUp(self) -> None:
        self.begun = time.monotonic()
        self.begin(cache_control="max-age=3600")
        self.origin.show_odd_keys()

    def refuse_all(self, content: bytes, digest: str) -> None:
        """Every wrong token, ``HEAD`` and ``GET`` and ``GET`` of a part: the same answer, and no more."""
        signer = self.origin.signer(NAME, digest)
        for wrong, make in WRONG.items():
            path = f"/v2/{NAME}/blobs/{digest}?token={quote(make(signer), safe='')}"
            try:
                head = self.ask("HEAD", path)
                self.check_refused(head, content, head=True)
                whole = self.ask("GET", path)
                self.check_refused(whole, content)
                self.check_refused(self.ask("GET", path, Range="bytes=0-9"), content)
                self.check_refused(self.ask("GET", path, If_None_Match=f'"{digest}"'), content)
            except self.failureException as failed:
                raise self.failureException(f"{wrong}: {failed}") from None
            self.assertEqual(_lasting(head), _lasting(whole), wrong)

    def test_stored(self) -> None:
        """Of a blob that is here; and right tokens are good before and after."""
        content, digest = self.stored_blob()
        self.refuse_all(content, digest)
        self.assertGreaterEqual(len(WRONG), 40)
        self.assertEqual(self.origin.asked(digest), [])
        self.check_quiet()
        signer = self.origin.signer(NAME, digest)
        self.assertEqual(self.ask("GET", f"/v2/{NAME}/blobs/{digest}?token={signer.token()}").body, content)

    def test_cold(self) -> None:
        """Of a blob that is not here: the origin hears nothing of it."""
        content, digest = self.blob()
        self.refuse_all(content, digest)
        self.assertEqual(self.origin.asked(digest), [])
        self.assertFalse(self.cache.stored(digest))
        self.check_quiet()

    def check_quiet(self) -> None:
        """No defect and no token in the log, and few questions for keys: two, and one in ten seconds."""
        log = self.cache.log()
        self.assertNotIn("Traceback", log)
        self.assertNotIn(" critical ", log)
        self.assertNotIn(self.origin.signer(NAME, "none").token().split(".")[0], log)
        self.assertLessEqual(len(self.asked_for_keys()), 2 + (time.monotonic() - self.begun) // 10)

    def test_names_of_keys(self) -> None:
        """A flood of names of keys that there are not costs the origin one question in ten seconds."""
        content, digest = self.stored_blob()
        signer = self.origin.signer(NAME, digest)
        begun = time.monotonic()
        for number in range(300):
            token = signer.token(signer.header(kid=f"unknown-{number}"))
            self.check_refused(self.ask("GET", f"/v2/{NAME}/blobs/{digest}?token={token}"), content)
        self.assertLessEqual(len(self.asked_for_keys()), 1 + (time.monotonic() - begun) // 10)
        self.assertEqual(self.ask("GET", f"/v2/{NAME}/blobs/{digest}?token={signer.token()}").body, content)


def _lasting(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}


@needs("docker-registry")
class IssuerTests(SignedCase):
    """Two origins behind one cache, each with keys of its own."""

    def setUp(self) -> None:
        self.registry = Origin(self, users={"ann": "secret"})
        self.origin = SigningOrigin(self, self.registry)
        self.other_registry = Origin(self, users={"bob": "secret"})
        self.other = SigningOrigin(self, self.other_registry)
        self.other.pens = self.other.pens[1:]
        self.cache = ContentCache(
            self,
            [
                {"originhost": self.origin.url, "names": ["one.example.com"]},
                {"originhost": self.other.url, "names": ["two.example.com"], "hosts": ["two.example.com"]},
            ],
        )
        self.asker = Asker(self, self.cache.host)

    def test_each_its_own(self) -> None:
        """
        The issuer picks the origin, whichever is the first; its token opens nothing of the other's, and
        neither does its signature under the other's name.
        """
        content, digest = self.blob()
        theirs, other_digest = self.blob_of_other()
        ours = self.origin.signed(NAME, digest)
        second = self.other.signed(NAME, other_digest)
        for _temperature in range(2):
            self.assertEqual(self.ask("GET", ours).body, content)
            self.assertEqual(self.ask("GET", second).body, theirs)
            for url in (
                self.origin.signed(NAME, other_digest, None, iss=self.other.url),  # its kid is unknown there
                self.origin.signed(NAME, other_digest, self.origin.pens[0], iss=self.other.url),
                self.other.signed(NAME, digest, None, iss="https://nobody.example.com"),
                self.origin.signed(NAME, digest, None, iss=self.origin.url + ".example.com"),
            ):
                self.check_refused(self.ask("GET", url), content)
                self.check_refused(self.ask("HEAD", url), content, head=True)

    def test_stored_of_another_origin(self) -> None:
        """What is stored of one origin is not had by a signature of the other: that one is asked, and says no."""
        _, digest = self.blob()
        theirs, other_digest = self.blob_of_other()
        self.assertEqual(self.ask("GET", self.other.signed(NAME, other_digest)).body, theirs)
        self.wait_stored(other_digest)
        self.assertEqual(self.ask("HEAD", self.origin.signed(NAME, other_digest)).status, 404)
        self.assertEqual(self.ask("GET", self.origin.signed(NAME, other_digest)).status, 404)
        self.assertEqual(self.ask("GET", self.other.signed(NAME, digest)).status, 404)

    def blob_of_other(self) -> tuple[bytes, str]:
        """A blob that only the second origin has."""
        content = b"only the second origin has this" * 100
        return content, push_blob(self.other_registry, NAME, content)

    def test_named_otherwise(self) -> None:
        """A token of one origin where the other is asked for is refused."""
        content, digest = self.blob()
        url = self.origin.signed(NAME, digest)
        self.assertEqual(self.ask("GET", url + "&ns=one.example.com").body, content)
        self.check_refused(self.ask("GET", url + "&ns=two.example.com"), content)
        self.check_refused(self.ask("GET", url, Host="two.example.com"), content)
        self.assertEqual(self.ask("GET", url + "&ns=three.example.com").status, 404)
