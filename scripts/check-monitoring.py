#!/usr/bin/env python3
"""Compares the alert rules, their tests, the dashboard and docs/MONITORING.md with the metrics of a registry.

Usage: check-monitoring.py METRICS RULES-FILE

METRICS is the output of the registry's verb `metrics`. The script writes the expressions of the dashboard to
RULES-FILE as recording rules, so that `promtool check rules` can parse them. The script prints each problem.
If there is a problem, the script exits with 1.
"""

import json
import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
RULES = TOP / "packaging/prometheus/deploy-tools.rules.yml"
TESTS = TOP / "packaging/prometheus/deploy-tools.rules.test.yml"
DASHBOARD = TOP / "packaging/grafana/deploy-tools.json"
DOC = TOP / "docs/MONITORING.md"
RUNBOOK = "file:///usr/share/doc/deploy-registry/MONITORING.md#"

# Metrics that other programs export, with their labels.
FOREIGN = {
    "up": set(),
    "node_textfile_mtime_seconds": {"file"},
    "ALERTS": {"alertname", "alertstate", "configuration", "severity"},
}
# Labels that a scrape adds.
SCRAPED = {"job", "instance"}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
# The templates that an annotation of an alert may contain.
TEMPLATE = re.compile(
    r"\$labels\.(\w+)|\$value|\$value \| (humanize|humanize1024|humanizeDuration|humanizePercentage)"
)

problems = []


def problem(where, text):
    problems.append(f"{where}: {text}")


def exported(text):
    """Reads metrics in the text format. Returns each name with its type and its labels."""
    types, labels = {}, {}
    for line in text.splitlines():
        if found := re.match(r"# TYPE (\S+) (\S+)$", line):
            types[found[1]] = found[2]
        elif found := re.match(r"([a-z_:]\w*)(\{.*\})? ", line):
            name = re.sub(r"_(bucket|sum|count)$", "", found[1])
            name = name if types.get(name) == "histogram" else found[1]
            keys = re.findall(r'([a-z_]\w*)="', re.sub(r'"(\\.|[^"\\])*"', '""', found[2] or ""))
            labels.setdefault(name, set()).update(set(keys) - {"le"})
    return {name: (types[name], labels.get(name, set())) for name in types}


def names_of(metrics):
    """Returns the names that a query may use, with their labels."""
    names = dict(FOREIGN)
    for name, (kind, labels) in metrics.items():
        if kind == "histogram":
            names[f"{name}_bucket"] = labels | {"le"}
            names[f"{name}_sum"] = names[f"{name}_count"] = labels
        else:
            names[name] = labels
    return names


def selectors(expr):
    """Returns each metric in a query, with the labels that its selector and the groupings name."""
    text = re.sub(r'"(\\.|[^"\\])*"', '""', expr)
    text = re.sub(r"\[[^\]]*\]", "", text)
    grouped = set()
    grouping = rf"\b(?:{'|'.join(GROUPING)})\s*\(([^)]*)\)"
    for inside in re.findall(grouping, text):
        grouped.update(re.findall(r"\w+", inside))
    text = re.sub(grouping, "", text)
    found = []
    for match in re.finditer(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\}|\()?", text):
        name, rest = match[1], match[2] or ""
        if name not in KEYWORDS and rest != "(":
            found.append((name, set(re.findall(r"([a-zA-Z_]\w*)\s*[=!]", rest))))
    return found, grouped


def check_query(where, expr, names, used):
    found, grouped = selectors(expr)
    if not found:
        problem(where, f"no metric in: {expr}")
    known = set(SCRAPED)
    for name, labels in found:
        if name not in names:
            problem(where, f"the registry does not export {name}")
            continue
        used.add(name)
        known |= names[name]
        for label in labels - names[name] - SCRAPED:
            problem(where, f"{name} has no label {label}")
    for label in grouped - known:
        problem(where, f"no metric has the label {label} in: {expr}")
    return known


def read_alerts():
    """Returns the name of each alert with the fields of its rule. The function reads only the form in which the file
    is written. promtool checks the syntax."""
    alerts = {}
    for part in RULES.read_text().split("      - alert: ")[1:]:
        name, rest = part.split("\n", 1)
        field = lambda key: (re.search(rf"^ +{key}: *(.*(?:\n {{12}}\S.*)*)", rest, re.M) or ["", ""])[1]
        fields = {key: field(key) for key in ("expr", "for", "summary", "description", "runbook_url")}
        fields["severity"] = (re.search(r"severity: (\w+)", rest) or ["", ""])[1]
        if name in alerts:
            problem(name, "two alerts have this name")
        alerts[name] = fields
    return alerts


def check_alerts(alerts, names, used):
    tests, doc = TESTS.read_text(), DOC.read_text()
    sections = set(re.findall(r"^#+ (Deploy\w+)$", doc, re.M))
    for name, alert in alerts.items():
        labels = check_query(name, alert["expr"], names, used)
        for key, value in alert.items():
            if not value:
                problem(name, f"the alert has no {key}")
        if alert["severity"] not in ("warning", "critical"):
            problem(name, f'the severity "{alert["severity"]}" is neither warning nor critical')
        if alert["runbook_url"] != RUNBOOK + name.lower():
            problem(name, f"the runbook is not {RUNBOOK}{name.lower()}")
        for template in re.findall(r"\{\{ (.*?) \}\}", alert["summary"] + alert["description"]):
            known = TEMPLATE.fullmatch(template)
            if not known or (known[1] and known[1] not in labels):
                problem(name, f"the template {template} is unknown, or uses a label that the query lacks")
        if not re.search(rf'ALERTS\{{alertname="{name}", alertstate="firing", severity=', tests):
            problem(name, f"{TESTS.name} has no series for which the alert fires")
        series = re.findall(rf"  - name: {name}\n(.*?)    promql_expr_test:", tests, re.S)
        if not any('instance="good"' in part for part in series):
            problem(name, f"{TESTS.name} has no series for which the alert does not fire")
    for name in sections ^ set(alerts):
        where = "has no section" if name in alerts else "has a section, but there is no such alert"
        problem(DOC.name, f"{name} {where}")


def check_table(metrics):
    """Checks that the tables in the document list exactly the metrics of the registry."""
    documented = {}
    for name, labels in re.findall(r"^\| `(deploy_registry_\w+)(?:\{([\w,]*)\})?` \|", DOC.read_text(), re.M):
        documented[name] = set(filter(None, labels.split(",")))
    for name in metrics.keys() - documented.keys():
        problem(DOC.name, f"the tables lack {name}")
    for name, labels in documented.items():
        if name not in metrics:
            problem(DOC.name, f"the registry does not export {name}")
        elif labels != metrics[name][1]:
            problem(DOC.name, f"the labels of {name} should be {sorted(metrics[name][1])}")


def check_layout(panels, variables):
    """Checks that ids are unique, that panels do not overlap, and that each variable in a text exists."""
    cells, ids = {}, set()
    for panel in panels:
        where, grid = f'panel "{panel["title"]}"', panel["gridPos"]
        if panel["id"] in ids:
            problem(where, f"the id {panel['id']} is not unique")
        ids.add(panel["id"])
        if grid["x"] + grid["w"] > 24:
            problem(where, "the panel is wider than the dashboard")
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                if cells.setdefault((x, y), where) != where:
                    problem(where, f"the panel covers {cells[(x, y)]}")
        for name in re.findall(r"\$\{?(\w+)", json.dumps(panel)):
            if name not in variables and not name.startswith("__"):
                problem(where, f"there is no variable {name}")


def check_dashboard(names, used):
    """Checks the dashboard. Returns its expressions, with values for its variables."""
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    for name in ("datasource", "job", "instance", "configuration"):
        if name not in variables:
            problem(DASHBOARD.name, f"there is no variable {name}")
    check_layout(dashboard["panels"], variables)
    queries = []
    for annotation in dashboard["annotations"]["list"]:
        queries.append(("annotation", annotation["expr"], ""))
    for variable in variables.values():
        if found := re.fullmatch(r"label_values\((.*), (\w+)\)", variable.get("definition", "")):
            queries.append((f"variable {variable['name']}", f"count by ({found[2]}) ({found[1]})", ""))
        elif variable["type"] == "query":
            problem(DASHBOARD.name, f"the variable {variable['name']} has no query")
    for panel in dashboard["panels"]:
        where, targets = f'panel "{panel["title"]}"', panel.get("targets", [])
        if panel["type"] != "row" and not (targets and panel["description"]):
            problem(where, "the panel has no query or no description")
        if len({target["refId"] for target in targets}) != len(targets):
            problem(where, "two queries have the same refId")
        for target in targets:
            if target["datasource"]["uid"] != "${datasource}":
                problem(where, "the query does not use the variable datasource")
            queries.append((where, target["expr"], target["legendFormat"]))
    exprs = []
    for where, expr, legend in queries:
        expr = expr.replace("$__rate_interval", "5m")
        labels = check_query(where, expr, names, used)
        for name, matched in selectors(expr)[0] if where.startswith("panel") else []:
            for label in (SCRAPED | ({"configuration"} & names.get(name, set()))) - matched:
                problem(where, f"{name} is not restricted to the selected {label}")
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            if label not in labels:
                problem(where, f"the legend uses {label}, which no metric has")
        exprs.append(re.sub(r"\$\w+", ".*", expr))
    return exprs


def main():
    metrics = exported(Path(sys.argv[1]).read_text())
    if not metrics:
        sys.exit(f"{sys.argv[1]} has no metrics")
    names, used = names_of(metrics), set()
    alerts = read_alerts()
    check_alerts(alerts, names, used)
    exprs = check_dashboard(names, used)
    check_table(metrics)
    for name in metrics:
        if not {name, f"{name}_bucket"} & used:
            problem(name, "no alert and no panel uses this metric")
    rules = [{"record": f"dashboard:expr:{n}", "expr": expr} for n, expr in enumerate(exprs)]
    Path(sys.argv[2]).write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    for text in problems:
        print(f"check-monitoring: {text}", file=sys.stderr)
    print(f"{len(metrics)} metrics, {len(alerts)} alerts, {len(exprs)} queries of the dashboard", file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
