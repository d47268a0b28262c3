"""The planner against the paper's own form on mid-size fleets: a 0/1 host and a rate for each device and variant."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from tiny_fleets import TYPES, Tiny, Worth, latencies

from proteus_cli.domain.rules import PAPER_RULES
from proteus_cli.planning.solver.solve import FIRST_GAP

EXACT = {"mip_rel_gap": 1e-7, "time_limit": 60.0}


@st.composite
def mid_size_fleets(draw: st.DrawFn) -> Tiny:
    """Four to ten devices, two or three families of three variants, a demand around what they can carry."""
    families = "abc"[: draw(st.integers(2, 3))]
    accuracy = {f: {f"{f}{i}": draw(st.integers(50, 100)) / 100 for i in range(3)} for f in families}
    latency_s = {
        (kind, f, v): draw(latencies()) for kind in TYPES for f, variants in accuracy.items() for v in variants
    }
    devices = tuple(sorted(draw(st.lists(st.sampled_from(TYPES), min_size=4, max_size=10))))
    return Tiny(accuracy, latency_s, devices, {f: draw(st.floats(1.0, 60.0)) * len(devices) for f in families})


@dataclass(frozen=True)
class Linearised:
    """max Σ accuracy·rate where host[d, v] ∈ {0, 1}, Σ_v host[d, v] ≤ 1, rate ≤ capacity · host, Σ rate ≤ demand."""

    tiny: Tiny

    def best(self) -> Worth:
        """The most that can be served, and then the most accurate of what serves as much."""
        tiny, families = self.tiny, list(self.tiny.demand_qps)
        rows = [
            (d, families.index(measured.family), within.qps, measured.accuracy)
            for d, profile in enumerate(tiny.profiles.values())
            for measured in profile.variants
            if (within := PAPER_RULES.capacity_within(tiny.slo_ms / 1000, measured.points)).qps > 0
        ]
        if not rows:
            return Worth(0.0, 0.0)
        device, family, qps, accuracy = (np.array(column) for column in zip(*rows, strict=True))
        size, demand_qps = len(rows), np.array(list(tiny.demand_qps.values()))
        one_each = sp.csr_array((np.ones(size), (device, np.arange(size))), shape=(len(tiny.devices), size))
        of_family = sp.csr_array((np.ones(size), (family, np.arange(size))), shape=(len(families), size))
        within_all = [
            LinearConstraint(sp.hstack([one_each, 0 * one_each]), -np.inf, 1.0),
            LinearConstraint(sp.hstack([-sp.diags_array(qps), sp.eye_array(size)]), -np.inf, 0.0),
            LinearConstraint(sp.hstack([0 * of_family, of_family]), -np.inf, demand_qps),
        ]
        served = np.concatenate([np.zeros(size), np.ones(size)])
        most = self._most(served, within_all)
        enough = LinearConstraint(served[None, :], most * (1 - 1e-9), np.inf)
        return Worth(most, self._most(np.concatenate([np.zeros(size), accuracy]), [*within_all, enough]))

    def _most(self, objective: "np.ndarray[tuple[int], np.dtype[np.float64]]", within: list[LinearConstraint]) -> float:
        size = len(objective) // 2
        upper = np.concatenate([np.ones(size), np.full(size, np.inf)])
        whole = np.concatenate([np.ones(size), np.zeros(size)])
        found = milp(-objective, integrality=whole, bounds=Bounds(0, upper), constraints=within, options=EXACT)
        assert found.status == 0, found.message
        return -float(found.fun)


@given(mid_size_fleets())
@examples(15, fuzzed=30)
def test_a_model_of_each_device_on_its_own_finds_nothing_better(tiny: Tiny) -> None:
    best, found = Linearised(tiny).best(), Worth.of(tiny.planned(), tiny)
    assert found.served_qps == pytest.approx(best.served_qps, rel=1e-5)
    assert found.accuracy_qps == pytest.approx(best.accuracy_qps, rel=max(2 * FIRST_GAP, 2e-5))
