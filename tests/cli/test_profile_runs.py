"""The budget of a measurement, with a backend and a clock that the tests wind themselves."""

import pytest
from fake_backend import FakeBackend, fake_time
from tiny import DEVICES, Tiny, device

from proteus_cli.cli import profile_runs
from proteus_cli.cli.profile_runs import DeviceWork, measured
from proteus_cli.profiling.jobs import measurement_jobs

BUDGET_S, BUILD_S = 2.0, 30.0


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    return FakeBackend(fake_time(monkeypatch, profile_runs))


def work_of(made: Tiny, backend: FakeBackend) -> list[DeviceWork]:
    """Two devices that share no profile."""
    found = []
    for sweeps_left, name in zip((2, 1), DEVICES, strict=True):
        on = device(made, name)
        jobs = measurement_jobs(made.place, made.place.catalog(), on, backend, 64)
        found.append(DeviceWork(sweeps_left, on, (), on.type, backend, jobs, accepts_noise=False))
    return found


def test_devices_share_the_budget(bare: Tiny, backend: FakeBackend) -> None:
    first, second = measured(bare.place, work_of(bare, backend), BUDGET_S)
    assert backend.clock.now_s <= 1.05 * BUDGET_S
    assert len(first.variants[0].points) == len(second.variants[0].points) > 1


def test_builds_of_engines_come_on_top(bare: Tiny, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*_: object) -> float:
        backend.clock.now_s += BUILD_S
        return BUILD_S

    monkeypatch.setattr(backend, "prepare", built)
    first, second = measured(bare.place, work_of(bare, backend), BUDGET_S)
    assert len(first.variants[0].points) == len(second.variants[0].points) > 1
