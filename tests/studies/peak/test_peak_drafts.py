"""Peaks of a workspace: of variants on a device, of plans, of a server of another make; simulated and live."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import numpy as np
import pytest
from builders import make_catalog, make_family, make_measured, make_profile
from tiny import Tiny, add_plan, mlp

from proteus_cli.errors import ArtefactError, DeviceUnavailable, ServerError, UsageError
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.store import Workspace, write_json
from proteus_cli.studies.artefacts import StudyFiles
from proteus_cli.studies.budget import Budget
from proteus_cli.studies.frame import JobTurn, StudyDraft, run_study
from proteus_cli.studies.pages.peak import section
from proteus_cli.studies.peak import carriers, drafts
from proteus_cli.studies.peak.carriers import PeakQuestion, Server, require_served, server_peak
from proteus_cli.studies.peak.drafts import carrying, device_draft, lone_plan, plan_draft, url_draft, workspace_draft
from proteus_cli.studies.results import Peak, PeakRules

SIMULATED = PeakQuestion(PeakRules(0.1, precision_frac=0.2), "simulated", jitter="")


def peaks(made: Tiny, draft: StudyDraft) -> dict[str, Peak]:
    study = run_study(draft, StudyFiles(made.place, draft.name), Budget(), lambda _now, _done: None)
    return {cell.key: cell.read(Peak) for cell in study.cells}


def test_each_variant_and_rule_has_a_peak_below_what_its_batches_can_carry(tiny: Tiny) -> None:
    found = peaks(tiny, device_draft(tiny.place, "shapes", ["shapes-s", "shapes-l"], "cpu0", SIMULATED))
    assert list(found) == ["shapes-s on cpu0, greedy", "shapes-l on cpu0, greedy"]
    small, large = found.values()
    assert small.rate_qps > 2 * large.rate_qps
    assert (small.variant, small.batching, small.slo_s) == ("shapes-s", "greedy", 0.2)


def test_a_peak_names_the_accuracy_at_which_it_was_reached(tiny: Tiny) -> None:
    """Of a variant, its own; of a plan with two, what both answer in the mean."""
    device = device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", SIMULATED)
    both = plan_draft(tiny.place, add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-l"}), "shapes", SIMULATED)
    (alone,), (mixed,) = peaks(tiny, device).values(), peaks(tiny, both).values()
    assert alone.accuracy == pytest.approx(0.70)
    assert 0.70 < (mixed.accuracy or 0.0) < 0.90
    study = StudyFiles(tiny.place, device.name).read()
    assert study is not None
    page = section(study)
    assert "at an accuracy of 70.0 % (one variant, fixed)" in page.findings[0]
    assert "70.0 %" in page.tables[0].rows[0]
    assert "Each cell is of one variant, which is fixed, and so is the accuracy." in page.how


def test_a_floor_is_asked_for_by_each_request_and_holds_for_what_is_measured(tiny: Tiny) -> None:
    """Variants below it are left out, or refused where they are named; a plan serves from those above it alone."""
    floored = replace(SIMULATED, rules=msgspec.structs.replace(SIMULATED.rules, min_accuracy=0.85))
    found = peaks(tiny, device_draft(tiny.place, "shapes", [], "cpu0", floored))
    assert [peak.variant for peak in found.values()] == ["shapes-l"]
    path = add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-l"})
    (floor,), (free,) = (peaks(tiny, plan_draft(tiny.place, path, "shapes", q)).values() for q in (floored, SIMULATED))
    assert floor.accuracy == pytest.approx(0.90)
    assert floor.rate_qps < free.rate_qps
    with pytest.raises(UsageError, match=r"`shapes-s` has an accuracy of 70.0 %, below `--min-accuracy 85.0 %`"):
        device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", floored)
    with pytest.raises(UsageError, match="The best variant of `shapes` in the plan"):
        plan_draft(tiny.place, add_plan(tiny, {"cpu0": "shapes-s"}), "shapes", floored)
    server = PlainServer(0.001, [])
    with server.listening() as url, pytest.raises(UsageError, match="takes no `--min-accuracy`"):
        require_served(Server(url, slo_s=0.05), "m", 0.9)


def test_the_page_says_that_a_late_generator_found_no_peak(tiny: Tiny) -> None:
    draft = device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", SIMULATED)
    study = run_study(draft, StudyFiles(tiny.place, draft.name), Budget(), lambda _now, _done: None)
    (cell,) = study.cells
    late = msgspec.structs.replace(
        cell.read(Peak), limit="late_generator", low_qps=505.0, rate_qps=505.0, high_qps=None, lag_s=0.0717
    )
    none = msgspec.structs.replace(
        cell, key="none", result=msgspec.to_builtins(msgspec.structs.replace(late, low_qps=0.0))
    )
    found = section(
        msgspec.structs.replace(study, cells=(msgspec.structs.replace(cell, result=msgspec.to_builtins(late)), none))
    )
    at_least, unknown = found.findings
    assert "shapes-s on cpu0, greedy: at least 505 qps; this is no peak of what was asked" in at_least
    assert "the load generator itself sent requests up to 71.7 ms late" in at_least
    assert "not known; this is no peak" in unknown
    assert [row[2] for row in found.tables[0].rows] == ["–", "–"]


def test_an_interval_that_is_too_wide_is_no_result_and_the_page_names_a_budget(tiny: Tiny) -> None:
    draft = device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", SIMULATED)
    study = run_study(draft, StudyFiles(tiny.place, draft.name), Budget(), lambda _now, _done: None)
    (cell,) = study.cells
    wide = msgspec.structs.replace(cell.read(Peak), low_qps=468.0, high_qps=936.0, is_precise=False)
    wide_cell = msgspec.structs.replace(cell, took_s=50.0, result=msgspec.to_builtins(wide))
    found = section(msgspec.structs.replace(study, cells=(wide_cell,)))
    assert found.findings == [
        "shapes-s on cpu0, greedy: not found, as the time was too short; it is between 468 and 936 qps.",
        "Measure longer: `--budget 3.5min --force` is likely to suffice.",
    ]
    assert found.tables[0].rows[0][2] == "–"


def test_without_a_budget_what_is_served_in_real_time_takes_as_long_as_is_announced(tiny: Tiny) -> None:
    """Else it may take hours, in stretches of any length. In virtual time, the end of the search is near."""
    emulated = PeakQuestion(PeakRules(0.1), "emulated")
    for draft in (
        device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", emulated),
        plan_draft(tiny.place, add_plan(tiny, {"cpu0": "shapes-s"}), "shapes", emulated),
        url_draft(Server("http://127.0.0.1:9", slo_s=0.05), "m", PeakQuestion(PeakRules(0.1))),
    ):
        assert [(job.wanted_s, job.without_budget_s) for job in draft.jobs] == [(60.0, 60.0)]
    slow = url_draft(Server("http://127.0.0.1:9", slo_s=2.0), "m", PeakQuestion(PeakRules(0.1)))
    assert [(job.wanted_s, job.without_budget_s) for job in slow.jobs] == [(400.0, 400.0)], "ten stretches of 20 SLOs"
    (simulated,) = device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", SIMULATED).jobs
    assert math.isinf(simulated.without_budget_s)


def test_an_interrupt_during_a_simulated_stretch_ends_the_study(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation ends with what it has, which is no stretch."""
    monkeypatch.setattr(carriers, "simulate", lambda *_, **__: SimulationResult(interrupted_s=0.5))
    (job,) = device_draft(tiny.place, "shapes", ["shapes-l"], "cpu0", SIMULATED).jobs
    with pytest.raises(KeyboardInterrupt):
        job.measure(JobTurn(math.inf, lambda _now, _done: None))


def test_what_is_to_be_measured_must_be_here(tiny: Tiny) -> None:
    """What is emulated or simulated need not."""
    profile = tiny.place.profile("cpu0")
    elsewhere = msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, id="cpu77"))
    write_json(tiny.place.profile_path("cpu77"), elsewhere)
    for mode in ("emulated", "simulated"):
        assert device_draft(tiny.place, "shapes", ["shapes-s"], "cpu77", PeakQuestion(PeakRules(0.1), mode)).jobs
    with pytest.raises(DeviceUnavailable, match="No device `cpu77` here"):
        device_draft(tiny.place, "shapes", ["shapes-s"], "cpu77", PeakQuestion(PeakRules(0.1)))


def test_what_is_measured_is_on_the_device_that_was_profiled(tiny: Tiny) -> None:
    """Only then are its counters watched."""
    profile, measured = tiny.place.profile("cpu0"), PeakQuestion(PeakRules(0.1))
    assert device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", SIMULATED).devices == ()
    assert device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", measured).devices == (profile.device,)
    other = msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, name="Another CPU"))
    write_json(tiny.place.profile_path("cpu0"), other)
    with pytest.raises(ArtefactError, match="is of another device: Another CPU"):
        device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", measured)


def test_studies_of_other_devices_modes_variants_and_families_have_other_names(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    emulated = PeakQuestion(PeakRules(0.1), "emulated")
    drafts = [
        device_draft(tiny.place, "shapes", [], "cpu0", SIMULATED),
        device_draft(tiny.place, "shapes", [], "cpu1", SIMULATED),
        device_draft(tiny.place, "shapes", [], "cpu1", emulated),
        device_draft(tiny.place, "shapes", ["shapes-s"], "cpu1", PeakQuestion(PeakRules(0.1))),
        plan_draft(tiny.place, plan, None, emulated),
        plan_draft(tiny.place, plan, "shapes", PeakQuestion(PeakRules(0.1))),
    ]
    assert [draft.name for draft in drafts] == [
        "peak-shapes-cpu0-simulated",
        "peak-shapes-cpu1-simulated",
        "peak-shapes-cpu1-emulated",
        "peak-shapes-cpu1-shapes-s",
        "peak-plan-emulated",
        "peak-plan-shapes",
    ]


def test_all_variants_that_a_plan_of_their_own_can_host_are_measured() -> None:
    """A batch of 60 ms within an SLO of 100 ms leaves enough room for half of all queries, and not for 99.5 %."""
    measured = make_measured("a", "s", 0.7, {1: 0.06})
    profile = make_profile("cpu0", measured)
    for attainment, carries in ((0.5, True), (0.995, False)):
        family = make_family("a", {"s": 0.7}, attainment=attainment)
        assert bool(carrying(family, profile)) is carries
        with nullcontext() if carries else pytest.raises(UsageError, match="within the SLO"):
            lone_plan(make_catalog(family), family, measured, profile, {})


def test_a_workspace_has_the_ends_of_each_family(tiny: Tiny) -> None:
    draft = workspace_draft(tiny.place)
    assert isinstance(draft, StudyDraft)
    assert [job.key.split(" ")[0] for job in draft.jobs] == ["shapes-l", "shapes-s", "tones-l", "tones-s"]


# --- a server of another make


class PlainServer(ThreadingHTTPServer):
    """A server of the protocol that knows nothing of Proteus: one request at a time, each takes ``service_s``."""

    daemon_threads = False

    def __init__(self, service_s: float, extensions: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service_s, self.extensions, self.device = service_s, extensions, threading.Lock()
        self.bodies: list[bytes] = []

    @contextmanager
    def listening(self) -> Iterator[str]:
        """In a thread of its own; yields its URL."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{self.server_address[1]}"
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: PlainServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        pages = {
            "/v2": {"name": "plain", "version": "1", "extensions": self.server.extensions},
            "/v2/models/m": {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]},
        }
        self._answer(200 if self.path in pages else 404, pages.get(self.path, {"error": "no such page"}))

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        with self.server.device:
            time.sleep(self.server.service_s)
        self._answer(200, {"model_name": "m", "outputs": []})

    def _answer(self, status: int, value: object) -> None:
        content = msgspec.json.encode(value)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_said: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("is_binary", [True, False])
def test_a_server_of_another_make_is_offered_requests_that_it_knows(*, is_binary: bool) -> None:
    """In one stretch, so that little is known of the peak; what is known has to hold."""
    server = PlainServer(0.004, ["binary_tensor_data"] if is_binary else [])
    with server.listening() as url:
        draft = url_draft(Server(url, slo_s=0.05), "m", PeakQuestion(PeakRules(0.2, most_requests=1)))
        (job,) = draft.jobs
        peak = job.measure(JobTurn(60.0, lambda _now, _done: None))
    assert isinstance(peak, Peak)
    assert peak.requests > 0
    assert peak.low_qps <= 260.0
    first = server.bodies[0]
    assert first[:1] == b"{"
    head = msgspec.json.decode(first if not is_binary else first[: first.rindex(b"}") + 1])
    assert head["inputs"][0]["shape"] == [1, 3]
    assert ("data" in head["inputs"][0]) is not is_binary
    assert "timeout" not in head.get("parameters", {})
    values = head["inputs"][0].get("data") or np.frombuffer(first[-12:], "<f4").tolist()
    assert all(0 <= value <= 1 for value in values)


def test_a_search_begins_at_the_rate_that_the_plan_carries() -> None:
    question = PeakQuestion(PeakRules(0.2, most_requests=1))
    with PlainServer(0.0, []).listening() as url:
        server, ends_s = Server(url, slo_s=0.05), time.monotonic() + 60.0
        peak = server_peak(server, {"m": 1.0}, question, 700.0, ends_s, lambda _now, _done: None)
    assert [probe.rate_qps for probe in peak.probes] == [700.0]


def test_each_server_and_family_has_a_study_of_its_own() -> None:
    def name(url: str, family: str = "m", given: str = "") -> str:
        return url_draft(Server(url), family, PeakQuestion(PeakRules(0.01)), given).name

    assert name("http://127.0.0.1:8000") == "peak-127.0.0.1-8000-m"
    assert name("https://[::1]:8000/a b/") == "peak--1-8000-a-b-m"
    assert name("http://h/models", "a/b") == "peak-h-models-a-b"
    assert name("http://h", "llama3:8b") == "peak-h-llama3-8b"
    assert name("http://h", "bert base") == "peak-h-bert-base"
    assert name("http://127.0.0.1:8000", given="mine") == "mine"


def test_a_server_that_says_no_slo_needs_one() -> None:
    with PlainServer(0.0, []).listening() as url:
        for server, error in ((Server(url), UsageError), (Server(url, slo_s=1.0), ServerError)):
            (job,) = url_draft(server, "other" if server.slo_s else "m", PeakQuestion(PeakRules(0.01))).jobs
            with pytest.raises(error, match="says no SLO" if error is UsageError else "404"):
                job.measure(JobTurn(1.0, lambda _now, _done: None))


@pytest.mark.live
def test_a_plan_is_served_here_and_offered_requests(tiny: Tiny) -> None:
    """One stretch says little of the peak; all of its requests, and the server's SLO, must have come through.

    What the server writes goes to the state directory of the study.
    """
    question = PeakQuestion(PeakRules(0.2, most_requests=1), "emulated", ("nexus",))
    place = Workspace(tiny.root, tiny.root / "state")
    (peak,) = peaks(tiny, plan_draft(place, add_plan(tiny, {"cpu0": "shapes-s"}), "shapes", question)).values()
    (probe,) = peak.probes
    assert probe.requests == peak.requests > 50
    assert (peak.slo_s, peak.family, peak.batching) == (0.2, "shapes", "nexus")


def test_what_is_measured_is_of_the_models_that_were_profiled(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model at the same path would have the peak of the one before told as its own."""
    measured = replace(SIMULATED, mode="measured")
    monkeypatch.setattr(drafts, "discover", lambda _: [tiny.place.profile("cpu0").device])
    path = add_plan(tiny, {"cpu0": "shapes-s"})
    mlp(tiny.model("shapes-l"), hidden=9, seed=17)
    device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", measured)
    plan_draft(tiny.place, path, "shapes", measured)
    mlp(tiny.model("shapes-s"), hidden=9, seed=17)
    plan_draft(tiny.place, path, "shapes", SIMULATED)
    with pytest.raises(ArtefactError, match="`shapes/shapes-s` in the profile of `cpu0` was measured with another"):
        device_draft(tiny.place, "shapes", ["shapes-s"], "cpu0", measured)
    with pytest.raises(ArtefactError, match="`shapes/shapes-s` in the profile of `cpu0` was measured with another"):
        plan_draft(tiny.place, path, "shapes", measured)
