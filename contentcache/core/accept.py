"""What a client accepts, by its ``Accept`` (RFC 9110 §12.5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_MOST_RANGES: Final = 100


def prefers_html(accept: Sequence[str]) -> bool:
    """
    Whether a client is a browser: its ``Accept`` names ``text/html``, and nothing that it likes better.

    >>> prefers_html(["text/html,application/xhtml+xml,*/*;q=0.8"]), prefers_html(["*/*"]), prefers_html([])
    (True, False, False)
    >>> prefers_html(["application/json, text/html;q=0.5"]), prefers_html(["text/html;q=0"])
    (False, False)
    """
    weights = _weights(accept)
    html = weights.get("text/html", 0.0)
    return html > 0 and all(weight <= html for weight in weights.values())


def accepts_json(accept: Sequence[str]) -> bool:
    """
    Whether the most specific range that matches ``application/json`` allows it.

    >>> [accepts_json([value]) for value in ("text/html, */*;q=0.1", "application/json;q=0, */*", "text/*")]
    [True, False, False]
    """
    weights = _weights(accept)
    matching = [name for name in ("application/json", "application/*", "*/*") if name in weights]
    return not accept or (bool(matching) and weights[matching[0]] > 0)


def _weights(accept: Sequence[str]) -> Mapping[str, float]:
    """The weight of each range; one that is no number is 0."""
    weights: dict[str, float] = {}
    for media_range in ",".join(accept).split(",")[:_MOST_RANGES]:
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        values = [
            value.strip()
            for key, _, value in (each.partition("=") for each in parameters)
            if key.strip() == "q"
        ]
        try:
            weights[name] = min(1.0, max(0.0, float(values[0]))) if values else 1.0
        except ValueError:
            weights[name] = 0.0
    return weights
