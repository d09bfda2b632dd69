"""A request to the registry behind, as a value."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from contentcache.gateway.bodies import RequestBody

#: A header field, name and value, each byte as one character (latin-1).
Field = tuple[str, str]


@frozen
class Question:
    """
    A request to the registry: ``target`` is path and query, ``fields`` are complete but for those that
    frame the body. With ``expects`` the registry is asked to say whether it wants the body.
    """

    method: str
    target: str
    fields: Sequence[Field]
    expects: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent a second time where nobody knows what became of the first."""
        return self.method in {"GET", "HEAD", "OPTIONS"}


def framing(question: Question, body: RequestBody | None) -> Sequence[Field]:
    """The fields that say where the request ends (RFC 9112 §6)."""
    if body is None:
        # RFC 9110 §8.6: where a body would have a meaning its absence is said.
        return [("Content-Length", "0")] if question.method in {"POST", "PUT", "PATCH"} else []
    if body.length is None:
        return [("Transfer-Encoding", "chunked")]
    return [("Content-Length", str(body.length))]
