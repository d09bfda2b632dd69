"""The walk-through of the documents, done word for word: its files, its commands, its machines by their names."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.gateway.keys import KeyFiles
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token
from tests.real.documents import Typed, Values, Written, chapters
from tests.real.machines import Machine, Network, no_machines
from tests.real.programs import ROOT, needs, settled, until

DOMAIN: Final = "example.com"
#: In the order of their addresses.
NAMES: Final = ("registry", "san-francisco", "los-angeles", "laptop", "desk")

#: How the commands begin that are not typed here, and why.
NOT_TYPED: Final = {
    "docker run": "there is no image of the cache here; to build one and run it is another test's work"
}
#: How the commands begin for which something else is done, and why.
DONE_OTHERWISE: Final = {"scp": "the machines have no sshd: the test copies the file"}

#: Commands that only look. A log may be a moment behind its client, so they are typed until it is not.
_LOOKS = re.compile(r"(?:curl -si|curl -s http://127|grep|tail|find|ls) ")
#: What must be in no log.
_SECRETS: Final = ("wonderland", "builder", "brimful", "token=ey", "Traceback")
_DATA: Final = "/var/lib/registry/docker/registry/v2/blobs/sha256"


@needs("docker-registry", "skopeo", "dockerd", "docker", "curl", "openssl", "htpasswd", root=True)
class WalkthroughTests(SynchronousTestCase):
    """The document keeps its word."""

    skip = no_machines()

    def setUp(self) -> None:
        """The machines, and docker on the one whose user has it."""
        python = shlex.quote(sys.executable)
        programs = {
            "twistd": f"{python} -c 'from twisted.scripts.twistd import run; run()'",
            "contentcache": f"{python} -m contentcache",
        }
        self.network = Network(self, [f"{name}.{DOMAIN}" for name in NAMES], programs=programs)
        self.values = Values()
        self.passed_over: set[str] = set()
        laptop = self.machine("laptop").open_shell()
        dockerd = "dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver vfs"
        laptop.type(f"{dockerd} > dockerd.log 2>&1 &")
        until(lambda: laptop.type("docker version")[0] == 0, "dockerd on the laptop")

    def test_walkthrough(self) -> None:
        """Every chapter; and after it, what its readers have to take on trust."""
        checks: Mapping[str, Callable[[], None]] = {
            "A user chooses it": self.nothing_is_there,
            "Push and pull": self.only_what_was_pulled,
            "Who gets nothing": self.others_get_nothing,
            "The cache with TLS": self.only_those_who_trust,
            "Two caches in a row, with TLS": self.both_have_it,
        }
        found = chapters(ROOT / "docs/walkthrough.rst")
        self.assertLessEqual(set(checks), set(found))
        for title, steps in found.items():
            for step in steps:
                if isinstance(step, Written):
                    self.write(step)
                else:
                    self.do(step)
            checks.get(title, lambda: None)()
        self.assertEqual(self.passed_over, {*NOT_TYPED, *DONE_OTHERWISE})
        for name in NAMES[:3]:
            log = self.machine(name).path("/etc/contentcache/twistd.log").read_text("utf-8")
            self.assertEqual([secret for secret in _SECRETS if secret in log], [], name)

    # What is checked between the chapters.

    def nothing_is_there(self) -> None:
        """A cache that was chosen has asked for nothing."""
        self.assertEqual(self.stored("san-francisco"), {})

    def only_what_was_pulled(self) -> None:
        """The layer, and nothing else, crossed the line once, asked for by the gateway with its own account."""
        (layer,) = until(lambda: self.stored("san-francisco"), "the layer in the store").items()
        self.layer, self.size = layer
        self.check_metric("san-francisco", "contentcache_received_bytes_total", self.size)
        self.check_metric("san-francisco", "contentcache_sent_bytes_total", 2 * self.size)
        self.check(lambda: self.origin_gave(self.layer, self.size), ["contentcache"])

    def others_get_nothing(self) -> None:
        """
        A URL that has expired, that was signed for another origin, or by somebody else, opens nothing; and
        neither does the store to those of whom the origin knows nothing.
        """
        before = self.metric("san-francisco", "contentcache_sent_bytes_total")
        mine, strange = (
            self.signer("/etc/contentcache/signing.pem"),
            KeyFiles(self.mktemp(), lifetime=1e9, url_lifetime=0.0, wall=time.time),
        )
        strange.rotate()
        stranger = strange.signer()
        assert stranger is not None
        cases = {
            "good": (self.signed(mine), "200"),
            "expired": (self.signed(mine, now=time.time() - 1300), "403"),
            "another's": (self.signed(mine, issuer="https://other.example.com"), "403"),
            "by a stranger": (self.signed(stranger), "403"),
            "nobody": ("", "401"),
        }
        url = f"http://san-francisco.{DOMAIN}:5000/v2/org/app/blobs/{self.layer}"
        for case, (query, status) in cases.items():
            for method, asked in (("GET", ""), ("HEAD", "-I")):
                command = f"curl -s {asked} -o answer -w '%{{http_code}}' '{url}{query}'"
                self.assertEqual(self.typed("desk", command), status, f"{method}, {case}")
        served = self.metric("san-francisco", "contentcache_sent_bytes_total") - before
        self.assertLess(served, self.size + 4096)  # the good one's, and sentences

    def only_those_who_trust(self) -> None:
        """The cache's authority is what a client needs: without it, it does not take a byte from there."""
        folder = f"/etc/containers/certs.d/registry.{DOMAIN}"
        copy = f"skopeo copy --quiet docker://registry.{DOMAIN}/org/app:1 dir:none"
        lines = len(self.log("san-francisco"))
        self.typed("desk", f"mv {folder}/san-francisco.crt .")
        status, said = self.machine("desk").shell.type(copy)
        self.assertNotEqual(status, 0)
        self.assertIn("unknown authority", said)
        self.typed("desk", f"mv san-francisco.crt {folder}/")
        self.typed("desk", copy)
        self.check(lambda: len([line for line in self.log("san-francisco")[lines:] if "GET" in line]), 1)

    def both_have_it(self) -> None:
        """
        The second layer is in both caches, byte for byte, and each fetched it once; Los Angeles has never
        spoken to the origin, and bob's pulls after he had left were none of San Francisco's.
        """
        office = until(lambda: self.stored("los-angeles"), "the layer in the store")
        (second,) = office
        self.check(lambda: self.stored("san-francisco"), {**office, self.layer: self.size})
        self.check_metric("los-angeles", "contentcache_received_bytes_total", office[second])
        self.check_metric("san-francisco", "contentcache_received_bytes_total", office[second])
        self.assertEqual([line for line in self.log("registry") if line.startswith("192.0.2.3 ")], [])
        self.check(lambda: self.pulls("los-angeles", second), ["192.0.2.4", "192.0.2.5"])
        self.check(lambda: self.pulls("san-francisco", second), ["192.0.2.3"])
        # The last one is bob, who then had no cache.
        self.check(lambda: self.origin_gave(second, office[second]), ["contentcache", "skopeo"])
        self.the_page_chooses()

    def the_page_chooses(self) -> None:
        """Bob chooses on the page what he chose by the API before: the next redirect leads there."""
        self.form("/settings/sign-in", username="bob", password="builder", next="/settings")
        page = self.page()
        self.assertIn("<strong>los-angeles</strong>", page)
        found = re.search(r'value="([0-9a-f-]{36})"[^>]*>\s*<span class="what">\s*<strong>los-angeles', page)
        assert found is not None, page
        self.form("/settings", cache=found[1])
        ask = "curl -s -o /dev/null -w '%{redirect_url}' --cacert ca.pem -u bob:builder"
        url = self.typed("desk", f"{ask} https://registry.{DOMAIN}/v2/org/app/blobs/{self.layer}")
        there = f"https://los-angeles.{DOMAIN}/v2/org/app/blobs/{self.layer}?token="
        self.assertEqual(url[: len(there)], there)

    # How the document is done.

    def machine(self, name: str) -> Machine:
        """One of the machines by its short name."""
        return self.network.machines[f"{name}.{DOMAIN}"]

    def write(self, file: Written) -> None:
        """Write a file, on each of its machines."""
        for name in file.machines:
            self.machine(name).path(file.path).write_text(file.content, "utf-8")

    def do(self, step: Typed) -> None:
        """Type a command, and compare its answer."""
        for beginning in (*NOT_TYPED, *DONE_OTHERWISE):
            if step.command.startswith(f"{beginning} "):
                self.passed_over.add(beginning)
                if beginning == "scp":
                    self.copy(step)
                return
        command, shell = self.values.put_into(step.command), self.machine(step.machine).shell
        said = ""

        def as_written() -> bool:
            nonlocal said
            status, said = shell.type(command)
            # ``grep`` and its like say by their status that there is nothing.
            return (status == 0 or not step.answer) and self.values.matches(step.answer, said)

        patience = 30.0 if _LOOKS.match(command) else 0.0
        with contextlib.suppress(AssertionError):
            until(as_written, command, timeout=patience, every=0.2)
            return
        wanted = "\n".join(step.answer)
        self.fail(f"{step.machine}$ {command}\nanswers\n{said}\nwhere the document has\n{wanted}")

    def copy(self, step: Typed) -> None:
        """``scp machine:/path file``."""
        _, source, target = step.command.split()
        host, _, path = source.partition(":")
        here = self.typed(step.machine, "pwd").strip()
        content = self.network.machines[host].path(path).read_bytes()
        self.machine(step.machine).path(f"{here}/{target}").write_bytes(content)

    # What is looked at.

    def typed(self, name: str, command: str) -> str:
        """What a command answers that must succeed."""
        status, said = self.machine(name).shell.type(command)
        self.assertEqual(status, 0, f"{name}$ {command}\n{said}")
        return said

    def check(self, look: Callable[[], object], expected: object) -> None:
        """What is looked at becomes so: a log, a metric or a store may be a moment behind its client."""
        self.assertEqual(settled(look, expected), expected)

    def check_metric(self, name: str, sample: str, expected: float) -> None:
        """A number of a cache becomes this one."""
        self.check(lambda: self.metric(name, sample), expected)

    def pulls(self, name: str, digest: str) -> list[str]:
        """The addresses of the clients that have asked a cache for a blob, in the order of its log."""
        wanted = f"GET /v2/org/app/blobs/{digest}"
        return [line.split()[0] for line in self.log(name) if wanted in line]

    def stored(self, name: str) -> dict[str, int]:
        """The blobs that a cache has, and their sizes in bytes."""
        files = self.machine(name).path(_DATA).glob("*/*/data")
        return {f"sha256:{file.parent.name}": file.stat().st_size for file in files}

    def log(self, name: str, file: str = "twistd.log") -> list[str]:
        """The lines of a log."""
        return self.machine(name).path(f"/etc/contentcache/{file}").read_text("utf-8").splitlines()

    def origin_gave(self, digest: str, size: int) -> list[str]:
        """To which programs docker-registry has given all of a blob."""
        asked = re.compile(rf'"GET /v2/org/app/blobs/{digest} HTTP/1.1" 200 {size} "" "(\w+)')
        return [match[1] for line in self.log("registry", "registry.log") if (match := asked.search(line))]

    def metric(self, name: str, sample: str) -> float:
        """A number of a cache."""
        lines = self.typed(name, "curl -s http://127.0.0.1:5001/metrics").splitlines()
        samples = [line.rpartition(" ") for line in lines if line.startswith((f"{sample} ", f"{sample}{{"))]
        return sum(float(value) for _labels, _, value in samples)

    def signer(self, path: str) -> SigningKey:
        """The gateway's key."""
        key_files = KeyFiles(
            str(self.machine("registry").path(path)), lifetime=1e9, url_lifetime=1200.0, wall=time.time
        )
        key_files.rotate()
        key = key_files.signer()
        assert key is not None
        return key

    def signed(
        self, key: SigningKey, *, now: float | None = None, issuer: str = f"https://registry.{DOMAIN}"
    ) -> str:
        """The query of a URL for the layer."""
        return "?token=" + sign_blob_token(
            key,
            issuer=issuer,
            subject="bob",
            repository="org/app",
            digest=Digest.parse(self.layer),
            now=time.time() if now is None else now,
            lifetime=1200.0,
        )

    def page(self) -> str:
        """The settings page as bob's browser has it."""
        return self.typed("desk", f"curl -s -b jar -c jar --cacert ca.pem https://registry.{DOMAIN}/settings")

    def form(self, path: str, **fields: str) -> None:
        """Fill in a form of the settings page, and send it."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.page())
        assert found is not None
        given = " ".join(
            f"--data-urlencode {shlex.quote(f'{name}={value}')}"
            for name, value in {"csrf": found[1], **fields}.items()
        )
        url = f"https://registry.{DOMAIN}"
        send = "curl -s -o answer -w '%{http_code}' -b jar -c jar --cacert ca.pem"
        self.assertEqual(self.typed("desk", f"{send} -H 'Origin: {url}' {given} {url}{path}"), "303")
