"""
Write the Grafana dashboards ``packaging/grafana/*.json`` from ``panels.yml``: ``python -m scripts.dashboards``.

With ``--check`` nothing is written, and the exit status is 1 where a file is not up to date. A file is what Grafana
exports: it is imported as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from scripts.check_words import ROOT
from scripts.generated import write_or_check

FOLDER: Final = ROOT / "packaging" / "grafana"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_SELECTOR: Final = 'job="$job",instance=~"$instance"'
#: Grafana's grid is so many columns wide.
_COLUMNS: Final = 24
#: The size of a panel in the grid, unless it says another width.
_SIZES: Final = {"stat": (4, 4), "timeseries": (12, 8), "row": (_COLUMNS, 1)}

Panel = Mapping[str, Any]


def dashboards() -> Mapping[str, str]:
    """The text of each dashboard's file, by its name."""
    tables = yaml.safe_load((FOLDER / "panels.yml").read_text("utf-8"))["dashboards"]
    return {
        f"{uid}.json": json.dumps(_dashboard(uid, table), indent=2) + "\n" for uid, table in tables.items()
    }


def _dashboard(uid: str, table: Mapping[str, Any]) -> dict[str, Any]:
    panels = [one for entry in table["panels"] for one in (entry if isinstance(entry, list) else [entry])]
    return {
        "annotations": {"list": []},
        "description": table["description"],
        "editable": True,
        "graphTooltip": 1,
        "id": None,
        "links": [],
        "panels": _placed(panels),
        "refresh": "1m",
        "schemaVersion": 38,
        "tags": ["contentcache"],
        "templating": {"list": _variables(job=uid)},
        "time": {"from": "now-24h", "to": "now"},
        "timepicker": {},
        "timezone": "",
        "title": table["title"],
        "uid": uid,
        "version": 1,
        "weekStart": "",
    }


def _placed(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Panels from left to right, a new line where one is full."""
    placed: list[dict[str, Any]] = []
    x = y = line = 0
    for number, panel in enumerate(panels, 1):
        kind = "row" if "row" in panel else panel.get("kind", "timeseries")
        width, height = _SIZES[kind]
        width = panel.get("width", width)
        if x + width > _COLUMNS:
            x, y = 0, y + line
        line = height
        position = {"h": height, "w": width, "x": x, "y": y}
        placed.append({"id": number, "type": kind, "gridPos": position, **_drawn(panel, kind)})
        x += width
    return placed


def _drawn(panel: Panel, kind: str) -> dict[str, Any]:
    if kind == "row":
        return {"title": panel["row"], "collapsed": False, "panels": []}
    is_stat = kind == "stat"
    return {
        "title": panel["title"],
        "description": panel["description"],
        "datasource": _SOURCE,
        "targets": [
            {
                "datasource": _SOURCE,
                "editorMode": "code",
                "expr": query["expr"].replace("@", _SELECTOR),
                "instant": is_stat,
                "legendFormat": query["legend"] or "__auto",
                "range": not is_stat,
                "refId": chr(ord("A") + number),
            }
            for number, query in enumerate(panel["queries"])
        ],
        "options": _STAT_OPTIONS if is_stat else _SERIES_OPTIONS,
        "fieldConfig": {
            "defaults": {
                "unit": panel["unit"],
                "min": 0,
                **(_thresholds(panel.get("bounds", [])) if is_stat else _lines(panel.get("stacked", False))),
            },
            "overrides": [],
        },
    }


_STAT_OPTIONS: Final = {
    "colorMode": "value",
    "graphMode": "none",
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "textMode": "auto",
}
_SERIES_OPTIONS: Final = {
    "legend": {"calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom", "showLegend": True},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


def _thresholds(bounds: Sequence[float]) -> dict[str, Any]:
    colours = ["green", "yellow", "red"]
    if bounds != sorted(bounds):
        colours, bounds = colours[::-1], bounds[::-1]
    values = zip(colours, [None, *bounds], strict=False)
    steps = [{"color": colour, "value": value} for colour, value in values]
    return {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}


def _lines(is_stacked: bool) -> dict[str, Any]:
    stacking = {"group": "A", "mode": "normal" if is_stacked else "none"}
    custom = {"fillOpacity": 30 if is_stacked else 5, "showPoints": "never", "stacking": stacking}
    return {"color": {"mode": "palette-classic"}, "custom": custom}


def _variables(job: str) -> list[dict[str, Any]]:
    """What is chosen at the top: the Prometheus, the job, and its instances."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    instances = {"allValue": ".*", "includeAll": True, "multi": True}
    return [
        {**source, "current": {}, "hide": 0, "options": [], "refresh": 1, "regex": ""},
        {
            **_query("job", "Job", "label_values(contentcache_build_info, job)"),
            "current": {"selected": False, "text": job, "value": job},
        },
        {
            **_query("instance", "Instance", 'label_values(contentcache_build_info{job="$job"}, instance)'),
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            **instances,
        },
    ]


def _query(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "datasource": _SOURCE,
        "definition": query,
        "hide": 0,
        "label": label,
        "name": name,
        "options": [],
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "type": "query",
    }


def main(arguments: Sequence[str]) -> int:
    """Write the files, or compare them."""
    return max(
        write_or_check(FOLDER / name, [text], arguments, "scripts.dashboards")
        for name, text in dashboards().items()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
