"""A workspace of imported profiles: three types of device, two families of three variants each, and no models."""

from pathlib import Path

from command_line import proteus

from proteus_cli.store import Workspace

SLO = "1200ms"
FLEET = "a:4,b:2,c:2"
ACCURACY = {
    "text": {"text-s": 0.7, "text-m": 0.8, "text-l": 0.9},
    "image": {"image-s": 0.6, "image-m": 0.75, "image-l": 0.95},
}
TIMES_SLOWER = {"a": 1.0, "b": 0.5, "c": 0.25}
FIRST_MS = {"s": 32.0, "m": 80.0, "l": 240.0}
LARGER = {1: 1.0, 4: 2.5, 8: 4.5}
LOAD_S = 0.1


def csv_text() -> str:
    """Latencies that heads can add up: of ``l`` on an ``a`` 240 ms, of ``s`` on a ``c`` 8 ms."""
    rows = [
        f"{kind},{family},{variant},{accuracy},{batch},{FIRST_MS[variant[-1]] * slower * times:g},{LOAD_S}"
        for kind, slower in TIMES_SLOWER.items()
        for family, variants in ACCURACY.items()
        for variant, accuracy in variants.items()
        for batch, times in LARGER.items()
    ]
    return "\n".join(["device_type,family,variant,accuracy,batch,latency_ms,load_s", *rows]) + "\n"


def make_cluster(root: Path, demand: str = "30qps", fleet: str = FLEET) -> Workspace:
    """Profiles from a CSV file, and ``plan`` for that demand on the fleet."""
    root.mkdir(parents=True)
    csv = root / "profiles.csv"
    csv.write_text(csv_text())
    assert proteus("profile", "--from-csv", csv, "--slo", SLO, "-w", root).code == 0
    planned = proteus("plan", "--demand", demand, "--fleet", fleet, "-o", root / "plans" / "plan.json", "-w", root)
    assert planned.code == 0, planned
    return Workspace(root)
