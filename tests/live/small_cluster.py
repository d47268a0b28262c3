"""Three emulated devices, two for the family `shapes` and one for `tones`: each carries 100 qps of it, or 500.

Or as many as there are hosts, each with one, for the family `shapes`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from command_line import proteus
from steady import row

from proteus_cli.store import Workspace

SLO = "500ms"
FLEET = "a:2,b:1"
LOAD_S = 0.2
RATES_QPS = {"shapes": 120.0, "tones": 20.0}  # of `shapes` 60 % of what both devices carry as accurately as can be
EMULATED = ("--emulate", "--set=executor=process")
_ROW = row(columns=1)
_FIRST_MS = {"good": 10.0, "fast": 2.0}
_ACCURACY = {"good": 0.9, "fast": 0.7}


def make_small_cluster(root: Path, slo: str = SLO, times: float = 1) -> Workspace:
    """Profiles from a CSV file, and ``plan``, with the accurate variants; or for so many ``times`` the rates."""
    _add_profiles(root, {"a": "shapes", "b": "tones"}, slo)
    demand = ",".join(f"{family}={times * rate:g}qps" for family, rate in RATES_QPS.items())
    return _planned(root, "--demand", demand, "--fleet", FLEET)


def make_emulated_hosts(root: Path, hosts: Iterable[str], rate_qps: float, devices: int = 1) -> Workspace:
    """``plan`` for so much of `shapes` on the devices `cpu-0`, `cpu-1` … of each host."""
    _add_profiles(root, {"cpu": "shapes"}, SLO)
    fleet = ";".join(f"{host}=cpu:{devices}" for host in hosts)
    return _planned(root, "--demand", f"shapes={rate_qps:g}qps", "--fleet", fleet)


def _add_profiles(root: Path, families: Mapping[str, str], slo: str) -> None:
    """Of a type of devices for each family."""
    root.mkdir(parents=True)
    rows = [
        f"{kind},{family},{family}-{variant},{_ACCURACY[variant]},{batch},{first_ms * batch:g},{LOAD_S}"
        for kind, family in families.items()
        for variant, first_ms in _FIRST_MS.items()
        for batch in (1, 2, 4)
    ]
    csv = root / "profiles.csv"
    csv.write_text("\n".join(["device_type,family,variant,accuracy,batch,latency_ms,load_s", *rows]) + "\n")
    assert proteus("profile", "--from-csv", csv, "--slo", slo, "-w", root).code == 0


def _planned(root: Path, *options: str) -> Workspace:
    planned = proteus("plan", *options, "-o", root / "plans" / "plan.json", "-w", root)
    assert planned.code == 0, planned
    return Workspace(root)


def one_row(_: int) -> bytes:
    """What any of its families takes."""
    return _ROW
