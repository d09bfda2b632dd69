"""A real Prometheus: rules and dashboards ask for what daemons really have."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import yaml
from twisted.trial.unittest import SynchronousTestCase

from scripts.dashboards import dashboards
from tests.real.cache import ContentCache
from tests.real.clients import Curl, skopeo_copy
from tests.real.gateway import GatewayDaemon
from tests.real.images import push_image, random_bytes
from tests.real.origin import Origin, basic
from tests.real.programs import ROOT, Case, needs, place, run, until
from tests.real.prometheus_server import Prometheus
from tests.real.unruly import Unruly, blob_url

_PACKAGING = ROOT / "packaging" / "prometheus"
_RULES = _PACKAGING / "contentcache.rules.yml"
#: A metric with its labels, as it is written in an expression.
_SELECTOR = re.compile(r"(?:up|contentcache_\w+|instance:[\w:]+)(?:\{[^}]*\})?")


def queries() -> Iterator[tuple[str, str]]:
    """Every query of every panel, for all instances of the job, by where it stands."""
    for name, text in dashboards().items():
        board = json.loads(text)
        job = board["templating"]["list"][1]["current"]["value"]
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$job", job).replace("$instance", ".*")
                yield f"{name}: {panel['title']}", query.replace("$__rate_interval", "1m")
        for variable in board["templating"]["list"][1:]:
            inner = variable["definition"].removeprefix("label_values(").rpartition(",")[0]
            yield f"{name}: ${variable['name']}", inner.replace("$job", job)


@needs("promtool", "prometheus")
class RuleFileTests(SynchronousTestCase):
    """The rules by themselves."""

    def test_rules(self) -> None:
        """They are right, and each alarm fires for what it is meant for and not for what it is not."""
        run(["promtool", "check", "rules", _RULES])
        run(["promtool", "test", "rules", _RULES.with_suffix(".test.yml")], cwd=_PACKAGING)


class IssuingCache(ContentCache):
    """A cache that waits for its first certificate, from an ACME server that does not answer."""

    def __init__(self, case: Case) -> None:
        letsencrypt = {
            "cachefile": str(place(case) / "acme"),
            "email": "ops@example.com",
            "hosts": ["cache.example.com"],
            "directoryurl": "https://127.0.0.1:1/directory",
        }
        super().__init__(case, "http://127.0.0.1:1", http={"tls": {"letsencrypt": letsencrypt}})

    @property
    def url(self) -> str:
        """Its base URL: TLS, with a certificate that is signed by itself."""
        return f"https://{self.host}"


@needs("promtool", "prometheus", "docker-registry", "skopeo", "curl")
class LiveTests(SynchronousTestCase):
    """A cache and a gateway that have served this and that, and the Prometheus that looks at them."""

    def setUp(self) -> None:
        self.start_daemons()
        caches = [self.cache.debug_port, IssuingCache(self).debug_port]
        jobs = {"contentcache": caches, "contentcache-gateway": [self.gateway.debug_port]}
        self.prometheus = Prometheus(self, jobs, _RULES)
        expected = {f"127.0.0.1:{port}": "up" for port in (*caches, self.gateway.debug_port)}
        until(lambda: self.prometheus.targets() == expected, "all are scraped")
        self.serve()

    def start_daemons(self) -> None:
        """A registry with its gateway, another registry, and a cache of both."""
        self.origin = Origin(self, users=dict.fromkeys(("ann", "filler", "root"), "secret"))
        self.upstream = Unruly(self, *(random_bytes(300_000, f"prometheus {number}") for number in range(2)))
        account = {"username": "filler", "password": "secret"}
        self.gateway = GatewayDaemon(
            self, self.origin.url, gateway={"account": account, "admins": ["root"], "checkinterval": "200ms"}
        )
        upstreams = (
            {"originhost": self.gateway.url},
            {"originhost": self.upstream.url, "names": ["unruly.example"]},
        )
        options = {"maxsize": "1GB", "retryfor": "1s"}
        self.cache = ContentCache(self, upstreams, options=options)

    def serve(self) -> None:
        """A redirect, a miss, a hit, a response that the upstream ended, and a 429."""
        image = push_image(self.origin, "org/app", layers=(300_000,))
        self.gateway.choose("ann:secret", self.gateway.add_cache("near", self.cache.url, "root:secret"))
        path = f"/v2/org/app/blobs/{image.layers[0].digest}"
        headers = {"Authorization": basic("ann", "secret")}
        until(
            lambda: self.gateway.request("HEAD", path, headers=headers).status == 307, "the cache is healthy"
        )
        for _ in range(2):
            skopeo_copy(image.reference(self.gateway.host), place(self) / "pulled", creds="ann:secret")
        curl, (cut, limited) = Curl(self), self.upstream.digests
        self.upstream.misbehave("with", header="ratelimit-remaining", value="76;w=21600")
        self.upstream.misbehave("short", cut, method="GET", at=150_000, times=1)
        self.upstream.misbehave("status", cut, method="GET", skip=1, status=500)
        self.assertEqual(self.pull(curl, cut), (200, 18))
        self.upstream.behave()
        self.upstream.misbehave("status", limited, status=429, retry_after=1)
        self.assertEqual(self.pull(curl, limited), (429, 0))

    def pull(self, curl: Curl, digest: str) -> tuple[int, int]:
        """Pull a blob of the other registry: the status, and how curl ended."""
        fetched = curl.fetch(f"{blob_url(self.cache.url, digest)}?ns=unruly.example")
        return fetched.status, fetched.ended

    def test_queries(self) -> None:
        """
        Every query of every panel finds a number, and so does all that a rule asks for; rules are evaluated without
        a fault. What has happened raises its alarm, in whole sentences, and nothing else does.
        """
        for where, query in queries():
            until(lambda: self.has_number(query), f"{where}: {query}")  # noqa: B023  # waited for here
        self.check_rules()
        self.check_alarms("ContentCacheRateLimited")

    def has_number(self, query: str) -> bool:
        """Whether the query has a sample that is a number."""
        return any(math.isfinite(float(sample["value"][1])) for sample in self.prometheus.query(query))

    def check_rules(self) -> None:
        """Every rule is evaluated, and each metric in it is there with the labels that it asks for."""
        rules = yaml.safe_load(_RULES.read_text("utf-8"))["groups"]
        for expression in (rule["expr"] for group in rules for rule in group["rules"]):
            for selector in set(_SELECTOR.findall(expression)):
                until(lambda: self.prometheus.query(selector), f"{expression}: {selector}")  # noqa: B023
            self.prometheus.query(expression)
        until(lambda: {rule["health"] for rule in self.prometheus.rules()} == {"ok"}, "every rule evaluated")
        self.assertEqual({rule.get("lastError", "") for rule in self.prometheus.rules()}, {""})

    def check_alarms(self, *expected: str) -> None:
        """These alarms are raised and no others; all that may be raised soon has whole sentences."""

        def firing() -> set[str]:
            alerts = self.prometheus.query('ALERTS{alertstate="firing"}')
            return {alert["metric"]["alertname"] for alert in alerts}

        until(lambda: firing() >= set(expected), "the alarms")
        self.assertEqual(firing(), set(expected))
        alerts = [alert for rule in self.prometheus.rules() for alert in rule.get("alerts", ())]
        self.assertNotRegex(str([alert["annotations"] for alert in alerts]), "<no value>|<error")
