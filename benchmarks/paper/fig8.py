"""Figure 8: tighter and looser SLOs."""

from benchmarks.paper.lab import Lab
from benchmarks.paper.results import SHORT_NOTE, Section, Table, beside

BASE_MS = 150
OWN_MS = 300  # of the paper's configuration: 2 × the base
TEXT = f"""\
The paper's trace with SLOs of 1 to 3.5 times {BASE_MS} ms, the same for all families, variants loaded for free; 2 times
is the SLO of the other experiments.

XXX
"""


def measure(lab: Lab) -> Section:
    """The main policies at each SLO."""
    rows = []
    for multiple in lab.size.multiples:
        slo_ms = multiple * BASE_MS
        slo = None if slo_ms == OWN_MS else f"{slo_ms:g}ms"
        runs = tuple(lab.named(name, lab.shared, slo=slo) for name in lab.size.policies)
        rows.append(beside((f"{multiple:g} × ({slo_ms:g} ms)",), runs))
    table = Table("SLOs from tight to loose", ("SLO", *lab.size.policies), tuple(rows), SHORT_NOTE)
    return Section("fig8", "Tighter and looser SLOs (figure 8)", TEXT, (table,))
