import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proteus_cli.cli.trace import app
from proteus_cli.errors import UsageError
from proteus_cli.replay.trace import read_trace

BUNDLED = Path(__file__).parents[2] / "traces" / "burst.csv"
CATALOG = """
format = 1
[[family]]
name = "digits"
slo = "50ms"
weight = 3.0
[[family.variant]]
name = "digits-s"
onnx = "digits-s.onnx"
accuracy = 0.9
[[family]]
name = "signals"
slo = "50ms"
[[family.variant]]
name = "signals-s"
onnx = "signals-s.onnx"
accuracy = 0.9
"""


def run(call: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*call.split(), *arguments])


def refused(call: str, *arguments: str) -> UsageError:
    error = run(call, *arguments).exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert error.hint
    return error


def test_the_call_that_scripts_rely_on_makes_a_burst(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    call = "make burst --rate 200qps --peak 900qps --duration 60s --families digits=0.5,signals=0.5 --seed 7 -o"

    result = run(call, str(path))

    assert result.exit_code == 0
    assert result.stdout == ""
    assert str(path) in result.stderr
    trace = read_trace(path)
    assert trace.families == ("digits", "signals")
    assert sum(trace.peak_demand().values()) == pytest.approx(900, rel=0.05)


def test_the_trace_goes_to_stdout_where_no_file_is_named() -> None:
    result = run("make constant --rate 2qps --duration 1s --families a")
    assert result.stdout == "arrival_s,family\n0.000000,a\n0.500000,a\n"
    assert result.stderr == ""


def test_the_bundled_burst_is_what_its_command_makes() -> None:
    call = (
        "make burst --rate 160qps --peak 1000qps --duration 40s --burst-start 14s --burst-stop 26s "
        "--families digits=0.5,signals=0.5 --seed 7 --per-second"
    )
    assert run(call).stdout_bytes == BUNDLED.read_bytes()


def test_families_come_from_the_catalog_by_weight_unless_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "catalog.toml").write_text(CATALOG)
    path = tmp_path / "t.csv.gz"

    assert run("make poisson --rate 100qps -w", str(tmp_path), "-o", str(path)).exit_code == 0
    facts = json.loads(run("info --json", str(path)).stdout)
    assert facts["families"]["digits"]["share"] == pytest.approx(0.75, abs=0.03)

    assert run("make poisson --rate 100qps --zipf 0 -w", str(tmp_path), "-o", str(path)).exit_code == 0
    facts = json.loads(run("info --json", str(path)).stdout)
    assert facts["families"]["digits"]["share"] == pytest.approx(0.5, abs=0.03)


def test_a_workspace_may_hold_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "proteus.toml").write_text('[make]\nrate = "1qps"\nduration = "3s"\nfamilies = "a"\n')
    assert len(run("make constant -w", str(tmp_path)).stdout.splitlines()) == 1 + 3


def test_info_shows_rates_families_and_demand_over_time() -> None:
    output = run("info", str(BUNDLED)).stdout

    assert "burst.csv" in output
    assert "18,080" in output
    assert "signals" in output
    assert "▂▂▂▂" in output
    assert "█" in output


def test_info_gives_one_document() -> None:
    facts = json.loads(run("info --json", str(BUNDLED)).stdout)

    assert facts["trace"] == "burst.csv"
    assert facts["arrivals"] == 18080
    assert facts["peak_qps"] == pytest.approx(1000, rel=0.05)
    assert facts["peak_to_mean"] > 2
    assert facts["gap_cv"] > 1
    assert set(facts["families"]) == {"digits", "signals"}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("make square --rate 1qps --families a", "No shape `square`"),
        ("make burst --rate 1qps --families a", "needs `--peak`"),
        ("make poisson --rate 1qps --peak 2qps --families a", "`--peak` means nothing"),
        ("make diurnal --rate 1qps --peak 2qps --ramp 1s --families a", "`--ramp` means nothing"),
        ("make burst --rate 1qps --peak 2qps --gamma-shape 1 --families a", "`--gamma-shape` means nothing"),
        ("make poisson --rate 1 --families a", "no unit"),
        ("make poisson --rate 1qps --families a=1 --zipf 1", "Zipf"),
        ("make poisson --rate 1qps -w nowhere", "No file"),
        ("info nowhere.csv", "No file `nowhere.csv`"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(call: str, problem: str) -> None:
    assert problem in refused(call).message


def test_a_broken_trace_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,family\n2,a\n1,a\n")
    assert f"`{path}`, line 3" in refused("info", str(path)).message


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, proteus_cli.cli.trace; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
