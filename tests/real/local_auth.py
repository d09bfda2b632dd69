"""What the tests of caches that judge their clients share."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.images import Image
from tests.real.line import CountingProxy
from tests.real.origin import Answer
from tests.real.programs import place, run

#: The cache's own account at the origin.
CACHE = "the-cache"


class LocalAuthCase(SynchronousTestCase):
    """An origin behind a line that is listened to."""

    cache: ContentCache
    line: CountingProxy

    def ask(self, method: str, path: str, authorization: str | None = None) -> Answer:
        """One request to the cache."""
        return self.asker.ask(method, path, authorization)

    def listen(self) -> None:
        """Have a client of the cache."""
        self.asker = Asker(self, self.cache.host)

    def logs_in(self, account: str, password: str) -> bool:
        """Whether ``skopeo login`` succeeds."""
        file = place(self) / "auth.json"
        argv = ["skopeo", "login", "--tls-verify=false", "--authfile", str(file)]
        argv += ["--username", account, "--password", password, self.cache.host]
        return run(argv, check=False).returncode == 0

    def passed_on(self) -> set[str]:
        """Every ``Authorization`` that the origin has seen."""
        return {exchange.headers.get("authorization", "") for exchange in self.line.exchanges}

    def paths(self, image: Image) -> list[str]:
        """What a pull asks for."""
        contents = [f"manifests/{image.digest}", *(f"blobs/{blob.digest}" for blob in image.blobs())]
        return [f"/v2/{image.name}/{path}" for path in (f"manifests/{image.tag}", *contents, "tags/list")]
