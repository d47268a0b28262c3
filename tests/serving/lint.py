"""What `promtool check metrics` complains of, and what Prometheus's "Metric and label naming" asks for."""

import re

from prometheus_client.metrics_core import Metric

BASE_UNITS = {"seconds", "bytes", "ratio", "info", "qps"}
OTHER_UNITS = {"milliseconds", "ms", "us", "microseconds", "minutes", "kilobytes", "megabytes", "mib", "percent"}
RESERVED = {"le", "quantile", "job", "instance"}
NAME = re.compile(r"[a-z][a-z0-9_]*")


def problems(metric: Metric, *, is_counter_named: bool) -> list[str]:
    """Complaints about a parsed family of metrics; ``is_counter_named``: its samples end in ``_total``."""
    name, kind, parts = metric.name, metric.type, metric.name.split("_")
    samples = [(sample.name, *sorted(sample.labels.items())) for sample in metric.samples]
    labels = {label for sample in metric.samples for label in sample.labels} - {"le" if kind == "histogram" else ""}
    complaints = {
        "no help text": not metric.documentation,
        "not snake_case": not all(NAME.fullmatch(each) for each in (name, *labels)),
        "counters, and only they, should end in _total": (kind == "counter") != is_counter_named,
        "only histograms have such suffixes": kind != "histogram" and name.endswith(("_count", "_sum", "_bucket")),
        "not in base units": bool(OTHER_UNITS & set(parts)),
        "the type does not belong in the name": name.endswith(("_counter", "_gauge", "_histogram")),
        "the unit should be at the end": bool(BASE_UNITS & set(parts[:-1])) and parts[-1] not in BASE_UNITS,
        "labels that Prometheus sets itself": bool(labels & RESERVED),
        "the same sample twice": len(set(samples)) != len(samples),
    }
    return [complaint for complaint, holds in complaints.items() if holds]
