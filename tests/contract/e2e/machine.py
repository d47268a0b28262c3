"""A machine with a GPU of doubles: its environment, and commands on it that must leave nothing on the device."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from command_line import command
from contract import downloads, figures
from contract.figures import ContractPart
from contract.runtime import census, toolchain
from tiny import Tiny, TinyFamily, add_plan, add_profiles, change_json, make_workspace

ROOT = Path(__file__).parents[3]
DEVICE = "Fake CUDA device (host memory)"
TYPE = "fake-cuda-device-host-memory"
TIMEOUT_S = 100.0


@dataclass(frozen=True)
class Machine:
    """``environment`` is what processes on it need; where they end, each leaves a census in ``left``."""

    environment: Mapping[str, str]
    left: Path

    def command(self, made: Tiny, *arguments: str | Path) -> list[str]:
        return command(*arguments, "-w", made.root)

    def proteus(self, made: Tiny, *arguments: str | Path) -> str:
        """Run a command to its end; what it said on both streams."""
        done = subprocess.run(
            self.command(made, *arguments), env=self.environment, text=True, timeout=TIMEOUT_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "PyCUDA" not in done.stdout, done.stdout  # it warns of what it can't free
        return done.stdout

    def check_clean(self) -> None:
        """Processes that used the driver have ended since the last time; none left anything, or misused it."""
        left = census.left_in(self.left)
        assert left
        assert list(left.values()) == [census.CLEAN] * len(left)
        figures.tell(ContractPart.WHOLE, "processes that left nothing on the device", *(path.name for path in left))
        for path in left:
            path.unlink()


def machine(left: Path, doubles: Mapping[str, str]) -> Machine:
    """``doubles``: variables of the driver and of NVML. Fails where pycuda, the builder or a compiler can't be had."""
    environment = {**toolchain.environment(nvml=True), **doubles}
    paths = [Path(__file__).parent / "double", downloads.rtx(), ROOT / "tests", ROOT]
    path = os.pathsep.join([*map(str, paths), environment["PYTHONPATH"]])
    return Machine(environment | {"PYTHONPATH": path, census.VARIABLE: str(left)}, left)


def planned(root: Path, family: TinyFamily, variant: str, model: Path) -> tuple[Tiny, Path]:
    """A workspace with a plan of that variant on `gpu0`, as if it had been profiled there; no engine is built."""
    made = make_workspace(root, (family,))
    model.rename(made.model(variant))
    add_profiles(made, ("gpu0",))
    device = {"id": "gpu0", "type": TYPE, "kind": "gpu", "name": DEVICE, "memory_bytes": 2**30}
    change_json(made.place.profile_path("gpu0"), device=device)
    plan = add_plan(made, {"gpu0": variant})
    change_json(plan, fleet={TYPE: ["gpu0"]})
    return made, plan
