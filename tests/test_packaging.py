"""Alerting rules and dashboards as files: what is said of each, and that each is tested."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from scripts.dashboards import FOLDER, dashboards, main
from tests.real.programs import ROOT

_RULES = ROOT / "packaging" / "prometheus" / "contentcache.rules.yml"
_ALERT_LABELS = re.compile(r'(\w+)="([^"]*)"')


def alerts() -> dict[str, dict[str, Any]]:
    """The alerting rules by their names."""
    groups = yaml.safe_load(_RULES.read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


class AlertTests(SynchronousTestCase):
    """The alerting rules."""

    def test_words(self) -> None:
        """Each says in a line what is wrong, where, and then what to do; each has a severity."""
        for name, rule in alerts().items():
            self.assertIn(rule["labels"]["severity"], {"critical", "warning", "info"}, name)
            summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
            self.assertIn("{{ $labels.instance }}", summary)
            self.assertEqual(len(summary.splitlines()) + len(description.splitlines()), 2, name)
            self.assertGreater(len(description), 60, name)

    def test_lines(self) -> None:
        """The lines of the log that they lead to are those that the daemon writes."""
        events = re.findall(
            r"^\* ``([^`]+)``", (ROOT / "docs" / "log-events.rst").read_text("utf-8"), re.MULTILINE
        )
        phrases = {
            phrase
            for rule in alerts().values()
            for phrase in re.findall(r'"([^"]+)"', rule["annotations"]["description"])
        }
        self.assertGreater(len(phrases), 5)
        self.assertEqual(
            {phrase for phrase in phrases if not any(event.startswith(phrase) for event in events)}, set()
        )

    def test_tested(self) -> None:
        """
        For each, ``promtool test rules`` expects one series to fire among several; its labels are those that
        the sentences use.
        """
        tests = yaml.safe_load(_RULES.with_suffix(".test.yml").read_text("utf-8"))["tests"]
        by_name = {test["name"]: test for test in tests}
        for name, rule in alerts().items():
            test = by_name[name]
            self.assertGreater(len(test["input_series"]), 1, name)
            (expected,) = test["promql_expr_test"]
            (sample,) = expected["exp_samples"]
            self.assertEqual(expected["expr"], f'ALERTS{{alertname="{name}",alertstate="firing"}}')
            labels = dict(_ALERT_LABELS.findall(sample["labels"]))
            self.assertEqual(labels["severity"], rule["labels"]["severity"])
            used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
            self.assertLessEqual(used, labels.keys(), name)

    def test_documented(self) -> None:
        """The operator's page has a row for each."""
        page = (ROOT / "docs" / "operating.rst").read_text("utf-8")
        self.assertEqual({name for name in alerts() if f"``{name}``" not in page}, set())


class DashboardTests(SynchronousTestCase):
    """The dashboards."""

    def test_up_to_date(self) -> None:
        """The files are what the table of panels makes."""
        self.assertEqual(main(["--check"]), 0)
        self.assertEqual({path.name for path in FOLDER.glob("*.json")}, dashboards().keys())

    def test_panels(self) -> None:
        """Every panel has a title of its own, a unit, a description, and asks the Prometheus that is chosen."""
        for name, text in dashboards().items():
            board = json.loads(text)
            self.assertEqual(board["uid"], name.removesuffix(".json"))
            self.assertEqual(board["templating"]["list"][0]["type"], "datasource")
            panels = [panel for panel in board["panels"] if panel["type"] != "row"]
            self.assertEqual(len({panel["title"] for panel in panels}), len(panels), name)
            for panel in panels:
                self.assertTrue(panel["description"].endswith("."), panel["title"])
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                self.assertTrue(all(target["expr"] for target in panel["targets"]), panel["title"])

    def test_grid(self) -> None:
        """No panel covers another one, and none is beyond the edge."""
        for name, text in dashboards().items():
            taken: set[tuple[int, int]] = set()
            for panel in json.loads(text)["panels"]:
                grid = panel["gridPos"]
                cells = {
                    (x, y)
                    for x in range(grid["x"], grid["x"] + grid["w"])
                    for y in range(grid["y"], grid["y"] + grid["h"])
                }
                self.assertFalse(cells & taken, f"{name}: {panel.get('title')}")
                self.assertLessEqual(grid["x"] + grid["w"], 24)
                taken |= cells
