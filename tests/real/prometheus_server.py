"""Prometheus between real programs: it scrapes daemons, and answers queries."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.real.programs import Case, Process, on_free_port, place


class Prometheus:
    """A Prometheus with these rules, and with the debug ports of daemons by the name of their job."""

    def __init__(self, case: Case, jobs: Mapping[str, Sequence[int]], rules: Path) -> None:
        self._case = case
        self._folder = place(case)
        scraped = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            for job, ports in jobs.items()
        ]
        settings = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms", "scrape_timeout": "500ms"},
            "rule_files": [str(rules)],
            "scrape_configs": scraped,
        }
        self._config = self._folder / "prometheus.yml"
        self._config.write_text(json.dumps(settings), "utf-8")
        self.port = 0
        self.process = on_free_port(self._start)

    def query(self, expression: str) -> Sequence[Mapping[str, Any]]:
        """
        The samples of an expression now, each with its ``metric`` and its ``value``.

        :raises urllib.error.HTTPError: it is none.
        """
        answer = self._get("/api/v1/query", query=expression)
        found: Sequence[Mapping[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> Sequence[Mapping[str, Any]]:
        """All rules, with what became of their last evaluation."""
        return [rule for group in self._get("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]

    def targets(self) -> Mapping[str, str]:
        """The state of what is scraped, ``up`` or not, by its address."""
        found = self._get("/api/v1/targets")["data"]["activeTargets"]
        return {target["labels"]["instance"]: target["health"] for target in found}

    def _get(self, path: str, **query: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}"
        with opener.open(url, timeout=30) as answer:
            return json.load(answer)

    def _start(self, port: int) -> Process:
        self.port = port
        argv = ["prometheus", f"--config.file={self._config}", f"--storage.tsdb.path={self._folder / 'data'}"]
        argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        process = Process(self._case, argv, name="prometheus")
        process.wait_for(f"http://127.0.0.1:{port}/-/ready", statuses=(200,))
        return process
