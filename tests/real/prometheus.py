"""What Prometheus' own tools say of the metrics of a daemon."""

from __future__ import annotations

import gzip
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.real.cache import ContentCache
from tests.real.programs import Case, place, run

_OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"


def scrape(daemon: ContentCache, **headers: str) -> tuple[str, bytes]:
    """The media type and the body of ``/metrics``, for a client that sends these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.debug_port}/metrics", headers=named)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        body = answer.read()
        if answer.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        return answer.headers["Content-Type"], body


def check_metrics(case: Case, daemon: ContentCache) -> None:
    """
    ``promtool`` finds no fault with the text, and Prometheus gets OpenMetrics, compressed, that can be parsed.

    :raises AssertionError: it does, or cannot.
    """
    _, text = scrape(daemon)
    path = place(case) / "metrics.txt"
    path.write_bytes(text)
    found = run(["sh", "-c", 'exec promtool check metrics < "$0"', path])
    assert found.stdout + found.stderr == "", found.stdout + found.stderr
    media_type, body = scrape(daemon, Accept=_OPENMETRICS, Accept_Encoding="gzip")
    assert media_type.startswith("application/openmetrics-text"), media_type
    assert len(list(text_string_to_metric_families(body.decode()))) > 20
