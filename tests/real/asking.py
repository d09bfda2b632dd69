"""Many small questions to one server, on one connection."""

from __future__ import annotations

import contextlib
import http.client

from tests.real.origin import Answer
from tests.real.programs import PATIENCE, Case

#: What pulling clients accept.
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


class Asker:
    """A client of ``host`` (``127.0.0.1:port``, plain HTTP) that reads whole answers."""

    def __init__(self, case: Case, host: str) -> None:
        self._host = host
        self._line = http.client.HTTPConnection(host, timeout=PATIENCE)
        case.addCleanup(self._line.close)

    def ask(self, method: str, path: str, authorization: str | None = None, **more: str) -> Answer:
        """One request; ``more`` are headers, ``If_None_Match`` for ``If-None-Match``."""
        headers = {"Accept": MANIFESTS, **{name.replace("_", "-"): value for name, value in more.items()}}
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            return self._once(method, path, headers)
        except (http.client.HTTPException, OSError):
            # A line that was idle may have been hung up on.
            self._line.close()
            return self._once(method, path, headers)

    def begins(self, method: str, path: str, authorization: str | None = None, **more: str) -> Answer:
        """The same, without waiting for more than the first bytes of the body; the line is then cut."""
        headers = {"Accept": MANIFESTS, **{name.replace("_", "-"): value for name, value in more.items()}}
        if authorization is not None:
            headers["Authorization"] = authorization
        line = http.client.HTTPConnection(self._host, timeout=PATIENCE)
        with contextlib.closing(line):
            line.request(method, path, headers=headers)
            answer = line.getresponse()
            return Answer(answer.status, _lower(answer), answer.read1(4096))

    def _once(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        self._line.request(method, path, headers=headers)
        answer = self._line.getresponse()
        return Answer(answer.status, _lower(answer), answer.read())


def _lower(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}
