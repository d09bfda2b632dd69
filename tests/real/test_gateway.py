"""Everything passes through a gateway, in both directions, as if the registry itself stood there."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.header_rewriting import SANDBOX
from contentcache.jose.keyset import parse_key_set
from tests.real.certificates import Authority
from tests.real.clients import Curl, Dockerd, Podman, skopeo_copy
from tests.real.gateway import GatewayDaemon, Pushing
from tests.real.images import Image, digest_of, push_blob, push_image, random_bytes
from tests.real.origin import Answer, Origin
from tests.real.programs import free_port, needs, place, run, until
from tests.real.tokens import TokenServer

MIB = 1 << 20


def pushed(gateway: GatewayDaemon, origin: Origin, name: str, **more: Any) -> Image:
    """An image that has gone to the origin through the gateway."""
    return push_image(cast("Origin", Pushing(gateway, origin)), name, **more)


def pieces(size: int, of: int = MIB, seed: int = 1) -> Iterator[bytes]:
    """A body of ``size`` bytes, made as it goes."""
    piece = random_bytes(of, seed)
    for _ in range(size // of):
        yield piece


@needs("docker-registry", "skopeo")
class ForwardingTests(SynchronousTestCase):
    """What the registry can do can be done through the gateway."""

    def test_same(self) -> None:
        """
        Pings, lists, manifests, blobs, refusals: the answers are the registry's own, header for header, but
        for those that keep them apart from the gateway's pages, and the request's id.
        """
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url)
        image = pushed(gateway, origin, "org/app")
        blob = image.layers[0].digest
        for method, path in (
            ("GET", "/v2/"),
            ("GET", "/v2/_catalog"),
            ("GET", "/v2/_catalog?n=1"),
            ("GET", "/v2/org/app/tags/list"),
            ("GET", "/v2/org/app/manifests/latest"),
            ("HEAD", "/v2/org/app/manifests/latest"),
            ("GET", f"/v2/org/app/blobs/{blob}"),
            ("HEAD", f"/v2/org/app/blobs/{blob}"),
            ("GET", "/v2/org/app/manifests/none"),
            ("GET", f"/v2/org/none/blobs/{blob}"),
            ("HEAD", f"/v2/org/none/blobs/{blob}"),
            ("GET", f"/v2/org/app/blobs/{blob[:-1]}"),
            ("GET", f"/v2/org/app/referrers/{image.digest}"),
            ("PUT", "/v2/org/app/tags/list"),
            ("DELETE", "/v2/org/app/manifests/sha256:" + "0" * 64),
        ):
            headers = {"Accept": image.manifest.media_type}
            here, there = (each.request(method, path, headers=headers) for each in (gateway, origin))
            self.assertEqual((here.status, here.body), (there.status, there.body), path)
            unlike = {"date", "x-request-id", *(name.lower() for name in SANDBOX)}
            self.assertEqual([here.headers.get(name.lower()) for name in SANDBOX], list(SANDBOX.values()))
            self.assertEqual(
                {name: value for name, value in here.headers.items() if name not in unlike},
                {name: value for name, value in there.headers.items() if name not in unlike},
                path,
            )

    def test_upload(self) -> None:
        """An upload in pieces with its state in between, a mount, a blob that is given up, a deletion."""
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url)
        content = random_bytes(300_000, "upload")
        where = self.begin(gateway, "/v2/org/app/blobs/uploads/")
        for start in (0, 100_000):
            part = content[start : start + 100_000]
            answer = gateway.request(
                "PATCH", where, part, {"Content-Range": f"{start}-{start + len(part) - 1}"}
            )
            self.assertEqual((answer.status, answer.headers["range"]), (202, f"0-{start + 99_999}"))
            where = answer.headers["location"]
        status = gateway.request("GET", where)
        self.assertEqual((status.status, status.headers["range"]), (204, "0-199999"))
        where = status.headers["location"]
        done = gateway.request("PUT", f"{where}&digest={digest_of(content)}", content[200_000:])
        self.assertEqual(done.status, 201, done)
        self.assertEqual(gateway.request("GET", done.headers["location"]).body, content)
        mounted = gateway.request(
            "POST", f"/v2/org/other/blobs/uploads/?mount={digest_of(content)}&from=org/app"
        )
        self.assertEqual(mounted.status, 201, mounted)
        given_up = self.begin(gateway, "/v2/org/app/blobs/uploads/")
        self.assertEqual(gateway.request("DELETE", given_up).status, 204)
        self.assertEqual(gateway.request("GET", given_up).status, 404)
        blob = f"/v2/org/other/blobs/{digest_of(content)}"
        self.assertEqual(gateway.request("DELETE", blob).status, 202)
        self.assertEqual(gateway.request("HEAD", blob).status, 404)

    def test_absolute_locations(self) -> None:
        """A registry that writes whole URLs, its own or the public one, leads back to the gateway."""
        settings: tuple[Mapping[str, object], ...] = (
            {"relativeurls": False},
            {"relativeurls": False, "host": "https://registry.example.com"},
        )
        for http in settings:
            origin = Origin(self, settings={"http": http})
            gateway = GatewayDaemon(self, origin.url, http={"host": "https://registry.example.com"})
            where = self.begin(gateway, "/v2/org/app/blobs/uploads/")
            self.assertTrue(where.startswith("/v2/org/app/blobs/uploads/"), where)
            image = pushed(gateway, origin, "org/app")
            skopeo_copy(image.reference(gateway.host), place(self) / "image")

    def test_prefix(self) -> None:
        """Below a prefix everything is there, and links lead there too."""
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url, http={"prefix": "/in/"})
        answer = gateway.request("POST", "/in/v2/org/app/blobs/uploads/", b"")
        self.assertTrue(answer.headers["location"].startswith("/in/v2/org/app/"), answer)
        for path in ("/in/v2/", "/v2/", "/", "/in/"):
            self.assertEqual(gateway.request("GET", path).status, 200)

    def begin(self, gateway: GatewayDaemon, path: str) -> str:
        """Where an upload goes on."""
        answer = gateway.request("POST", path, b"")
        self.assertEqual(answer.status, 202, answer)
        return answer.headers["location"]


@needs("docker-registry", "skopeo")
class ClientTests(SynchronousTestCase):
    """Clients push and pull, with whatever the registry wants of them."""

    def test_skopeo(self) -> None:
        """skopeo copies within the gateway, to an open registry, with a password, and with tokens."""
        for origin, creds in self.origins():
            gateway = GatewayDaemon(self, origin.url)
            image = pushed(gateway, origin, "org/app", layers=(2_000_000, 5_000))
            argv = ["skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
            argv += [] if creds is None else [f"--src-creds={creds}", f"--dest-creds={creds}"]
            copy = f"docker://{gateway.host}/org/copy:2"
            run([*argv, f"docker://{image.reference(gateway.host)}", copy])
            skopeo_copy(f"{gateway.host}/org/copy:2", place(self) / "image", creds=creds)
            found = origin.request("HEAD", "/v2/org/copy/manifests/2", headers=accepting(image))
            self.assertEqual(found.headers["docker-content-digest"], image.digest)
            if creds is not None:
                with self.assertRaises(AssertionError):
                    skopeo_copy(f"{gateway.host}/org/copy:2", place(self) / "none", creds="ann:wrong")
            self.assertNotIn("Traceback", gateway.log())

    @needs("podman", root=True)
    def test_podman(self) -> None:
        """podman pulls and pushes."""
        for origin, creds in self.origins():
            gateway = GatewayDaemon(self, origin.url)
            image = pushed(gateway, origin, "org/app")
            podman = Podman(self)
            podman.pull(image.reference(gateway.host), creds=creds)
            podman.push(image.reference(gateway.host), f"{gateway.host}/org/podman:1", creds=creds)
            found = origin.request("HEAD", "/v2/org/podman/manifests/1", headers=accepting(image))
            self.assertEqual(found.status, 200)

    @needs("dockerd", "docker", root=True)
    def test_docker(self) -> None:
        """docker logs in, pulls and pushes."""
        dockerd = Dockerd(self)
        for number, (origin, creds) in enumerate(self.origins()):
            gateway = GatewayDaemon(self, origin.url)
            image = pushed(gateway, origin, "org/app", layers=(2_000_000,), seed=number)
            if creds is not None:
                dockerd.login(gateway.host, *creds.split(":"))
            dockerd.pull(image.reference(gateway.host))
            dockerd.push(image.reference(gateway.host), f"{gateway.host}/org/docker:1")
            found = origin.request("HEAD", "/v2/org/docker/manifests/1", headers=accepting(image))
            self.assertEqual(found.status, 200)

    def test_tls(self) -> None:
        """TLS on both sides, and the authority that ``/ca`` hands out is all that a client needs."""
        authority = Authority(place(self))
        leaf = authority.leaf("127.0.0.1")
        origin = Origin(self, tls=leaf, authority=authority)
        http = {
            "tls": {"certificate": str(leaf.certificate), "key": str(leaf.key), "ca": str(authority.path)}
        }
        gateway = GatewayDaemon(
            self, origin.url, http=http, tls=leaf, authority=authority, gateway={"cas": [str(authority.path)]}
        )
        image = push_image(origin, "org/app")
        folder = place(self)
        fetched = Curl(self).fetch(f"{gateway.url}/ca", "-k")
        self.assertEqual(fetched.status, 200)
        (folder / "ca.crt").write_bytes(fetched.body.read_bytes())
        skopeo_copy(image.reference(gateway.host), place(self) / "image", tls_verify=True, cert_dir=folder)

    def origins(self) -> Iterator[tuple[Origin, str | None]]:
        """An open registry, one with passwords, one with tokens; and what to say to each."""
        yield Origin(self), None
        yield Origin(self, users={"ann": "secret"}), "ann:secret"
        tokens = TokenServer(self, users={"ann": "secret"})
        tokens.allow("ann", "org/*", "pull", "push")
        yield Origin(self, tokens=tokens), "ann:secret"


@needs("docker-registry", "curl")
class BodyTests(SynchronousTestCase):
    """Large bodies, and those that do not end well."""

    def test_large(self) -> None:
        """A large push takes no memory, in chunks or with its length, and neither does the pull."""
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url)
        pushed(gateway, origin, "org/app")
        before, size = gateway.peak_rss(), 256 * MIB
        for framing in ({}, {"Content-Length": str(size)}):
            where = self.begin(gateway)
            hasher = hashlib.sha256()

            def body(hasher: Any = hasher) -> Iterator[bytes]:
                for piece in pieces(size):
                    hasher.update(piece)
                    yield piece

            answer = gateway.request("PATCH", where, body(), framing)
            self.assertEqual((answer.status, answer.headers["range"]), (202, f"0-{size - 1}"), answer)
            digest = f"sha256:{hasher.hexdigest()}"
            done = gateway.request("PUT", f"{answer.headers['location']}&digest={digest}", b"")
            self.assertEqual(done.status, 201, done)
        fetched = Curl(self).fetch(f"{gateway.url}/v2/org/app/blobs/{digest}")
        self.assertEqual((fetched.status, fetched.size), (200, size))
        self.assertLess(gateway.peak_rss() - before, 32 * MIB)

    def test_refused_early(self) -> None:
        """
        A registry that refuses an upload by its head is heard, however much there was to come, whether the
        client waits for a word or not.
        """
        origin = Origin(self, users={"ann": "secret"})
        gateway = GatewayDaemon(self, origin.url)
        large = place(self) / "large"
        with large.open("wb") as file:
            file.truncate(200 * MIB)
        for more in (["-H", "Expect:"], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]):
            fetched = Curl(self).fetch(
                f"{gateway.url}/v2/org/app/blobs/uploads/x", "-X", "PATCH", "-T", str(large), *more
            )
            self.assertEqual(fetched.status, 401, (more, fetched, gateway.log()[-2000:]))
            self.assertIn("www-authenticate", fetched.headers)
            self.assertIn(b"UNAUTHORIZED", fetched.body.read_bytes())

    def test_continue(self) -> None:
        """A client that waits for a word before its body gets one."""
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url)
        where = self.begin(gateway)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
            head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            client.sendall(head.encode())
            self.assertEqual(client.recv(1000), b"HTTP/1.1 100 Continue\r\n\r\n")
            client.sendall(b"hello")
            self.assertTrue(client.recv(1000).startswith(b"HTTP/1.1 202 "))

    def test_registry_dies(self) -> None:
        """A registry that dies in the middle of an upload is a 502, and it is found again when it is back."""
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url)
        where = self.begin(gateway)

        def body() -> Iterator[bytes]:
            for number, piece in enumerate(pieces(64 * MIB)):
                if number == 20:
                    origin.process.kill9()
                    until(lambda: "registry unavailable" in gateway.log(), "the gateway to notice")
                    return
                yield piece

        answer = gateway.request("PATCH", where, body(), {"Content-Length": str(64 * MIB)})
        self.assertEqual((answer.status, answer.headers["connection"]), (502, "close"))
        self.assertEqual(json.loads(answer.body)["errors"][0]["code"], "UNAVAILABLE")
        self.assertEqual(gateway.request("GET", "/v2/").status, 503)
        origin.restart()
        self.assertEqual(gateway.request("GET", "/v2/").status, 200)
        self.assertNotIn("Traceback", gateway.log())

    def test_client_leaves(self) -> None:
        """An upload whose client leaves in the middle ends at the registry, which has what came until then."""
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url)
        where = self.begin(gateway)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
            client.sendall(f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n".encode())
            client.sendall(random_bytes(MIB, 1))
        until(
            lambda: any(line.method == "PATCH" for line in origin.requests()),
            "the registry to be done with it",
        )
        self.assertEqual(gateway.request("GET", "/v2/").status, 200)
        self.assertNotIn("Traceback", gateway.log())

    def begin(self, gateway: GatewayDaemon) -> str:
        """Where an upload goes on."""
        return gateway.request("POST", "/v2/org/app/blobs/uploads/", b"").headers["location"]


@needs("docker-registry")
class OwnTests(SynchronousTestCase):
    """What the gateway answers itself."""

    def test_keys(self) -> None:
        """A key is made at the first start, for nobody else to read, shown to everybody, and kept."""
        gateway = GatewayDaemon(self, f"http://127.0.0.1:{free_port()}")
        answer = self.keys(gateway)
        self.assertEqual(answer.headers["content-type"], "application/jwk-set+json")
        self.assertEqual(answer.headers["cache-control"], "public, max-age=300")
        (kid,) = parse_key_set(answer.body).keys
        (file,) = gateway.config.parent.glob("signing.pem")
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        gateway.restart()
        self.assertEqual(list(parse_key_set(self.keys(gateway).body).keys), [kid])

    def keys(self, gateway: GatewayDaemon) -> Answer:
        """The gateway's keys, as soon as it has read them."""
        path = "/.well-known/contentcache/jwks.json"
        until(lambda: gateway.request("GET", path).status == 200, "its keys")
        return gateway.request("GET", path)

    def test_trusted_proxies(self) -> None:
        """The access log has the address that a trusted proxy tells, and that of the connection for others."""
        for trusted, address in ((["127.0.0.1"], "203.0.113.9"), (["192.0.2.0/24"], "127.0.0.1")):
            gateway = GatewayDaemon(self, Origin(self).url, http={"trustedproxies": trusted})
            answer = gateway.request(
                "GET", "/v2/org/app/tags/list", headers={"X-Forwarded-For": "203.0.113.9"}
            )
            self.assertEqual(answer.status, 404)
            gateway.process.wait_until(partial(_has_line, gateway, "/tags/list"), "the line in the log")
            (line,) = [line for line in gateway.access_lines() if "/tags/list" in line]
            self.assertIn(f"{address} - ", line)

    def test_wrong_token(self) -> None:
        """A URL that nobody has signed is refused in the registry's own form."""
        origin = Origin(self)
        gateway = GatewayDaemon(self, origin.url)
        digest = push_blob(origin, "org/app", b"content")
        forged = ".".join(
            base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", b"{}", b"x")
        )
        for token in ("", "x", forged):
            for method in ("GET", "HEAD"):
                answer = gateway.request(method, f"/v2/org/app/blobs/{digest}?token={token}")
                self.assertEqual(answer.status, 403, token)
            answer = gateway.request("GET", f"/v2/org/app/blobs/{digest}?token={token}")
            self.assertEqual(json.loads(answer.body)["errors"][0]["code"], "DENIED")
        self.assertNotIn(forged, gateway.log())


def accepting(image: Image) -> Mapping[str, str]:
    """What to ask for an image's manifest with."""
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    return {"Accept": f"{image.manifest.media_type}, {docker}"}


def _has_line(gateway: GatewayDaemon, part: str) -> bool:
    return any(part in line for line in gateway.access_lines())
