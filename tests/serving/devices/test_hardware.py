"""Which devices have processes of their own, and with how many slots they are opened; what hosts are sent."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from agents import run, running_agent, until
from tiny import mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.serving.devices.hardware import LocalHardware, cluster_devices, process_specs
from proteus_cli.serving.devices.process.messages import CpuSpec, DeviceSpec, GpuSpec
from proteus_cli.serving.devices.remote.channel.address import Agents
from proteus_cli.store import model_digest

GPU = Device("gpu0", "t4", "gpu", "Tesla T4", 2**30)
CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
ON_GPU = GpuSpec(GPU, "built", slots=3)


@pytest.mark.parametrize(
    ("in_processes", "expected"), [(False, {"gpu0": ON_GPU}), (True, {"cpu0": CpuSpec(CPU), "gpu0": ON_GPU})]
)
def test_gpus_have_a_process_always_and_the_slots_that_were_profiled(
    in_processes: bool,  # noqa: FBT001 - a parameter of the test
    expected: dict[str, DeviceSpec],
) -> None:
    slots = {"cpu0": 1, "gpu0": 3}
    assert process_specs([CPU, GPU], Path("built"), slots, in_processes=in_processes) == expected


def test_hosts_have_the_models_of_the_catalog_as_it_is_now_also_once_they_are_connected_again(tmp_path: Path) -> None:
    """A model that stays keeps its file; a new version has another, or the same."""

    async def test() -> None:
        stays, moves = mlp(tmp_path / "stays.onnx"), mlp(tmp_path / "v1.onnx", seed=1)
        changes = mlp(tmp_path / "changes.onnx", seed=2)
        first = {VariantKey("f", path.stem): path for path in (stays, moves, changes)}
        local = LocalHardware(
            platform="", models=dict(first), signatures={}, is_emulated=False, devices={}, specs={}, started={}
        )  # fmt: skip
        async with running_agent(tmp_path) as agent:

            class OneHost:
                fixed = True

                async def changes(self) -> AsyncGenerator[Agents, None]:
                    yield {"a": agent.address}

            def held() -> set[str]:
                return set(agent.agent._models._held)

            async with cluster_devices(local, OneHost(), {"a/cpu0": CPU}, {"a/cpu0": 1}) as cluster:
                await until(lambda: held() == set(map(model_digest, first.values())))
                mlp(changes, seed=3)
                second = {VariantKey("f", "v2"): mlp(tmp_path / "v2.onnx", seed=4), VariantKey("f", "stays"): stays}
                second[VariantKey("f", "changes@2")] = changes
                cluster.use_models(second)
                now = set(map(model_digest, second.values()))
                await until(lambda: held() == now)
                ((_, before),) = cluster.sessions()
                agent.session.end("the test ends it")
                await until(lambda: cluster.sessions() and cluster.sessions()[0][1] is not before)
                await until(lambda: held() == now)

    run(test)
