"""What `promtool check metrics` complains of, and what Prometheus's "Metric and label naming" asks for."""

import re

from prometheus_client.metrics_core import Metric

BASE_UNITS = ("seconds", "bytes", "ratio", "info", "qps")
OTHER_UNITS = ("milliseconds", "ms", "us", "microseconds", "minutes", "kilobytes", "megabytes", "mib", "percent")
RESERVED = {"le", "quantile", "job", "instance"}
NAME = re.compile(r"[a-z][a-z0-9_]*")


def problems(metric: Metric, *, is_counter_named: bool) -> list[str]:
    """Complaints about a parsed family of metrics; ``is_counter_named``: its samples end in ``_total``."""
    name, found = metric.name, []
    if not metric.documentation:
        found.append("no help text")
    if not NAME.fullmatch(name):
        found.append("not snake_case")
    if metric.type == "counter" and not is_counter_named:
        found.append("a counter should end in _total")
    if metric.type != "counter" and name.endswith("_total"):
        found.append("only counters should end in _total")
    if metric.type != "histogram" and name.endswith(("_count", "_sum", "_bucket")):
        found.append("only histograms should have such suffixes")
    if any(part in OTHER_UNITS for part in name.split("_")):
        found.append("not in base units")
    if name.endswith(("_counter", "_gauge", "_histogram")):
        found.append("the type does not belong in the name")
    units = [part for part in name.split("_") if part in BASE_UNITS]
    if units and not name.endswith(units[-1]):
        found.append("the unit should be at the end")
    for sample in metric.samples:
        named = set(sample.labels) - ({"le"} if metric.type == "histogram" else set())
        if named & RESERVED or not all(NAME.fullmatch(label) for label in named):
            found.append(f"labels {sorted(named)}")
            break
    if len({(s.name, *sorted(s.labels.items())) for s in metric.samples}) != len(metric.samples):
        found.append("the same sample twice")
    return found
