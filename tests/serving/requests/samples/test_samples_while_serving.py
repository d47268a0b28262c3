"""Which requests are captured, what is kept of them, and that no request waits for it. The writing thread is real."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from builders import make_plan
from one_device import AT_ONCE_S, SLOW_S, World, run

from proteus_cli.domain.request import Outcome
from proteus_cli.errors import RequestError
from proteus_cli.serving.requests.samples import writer as writing
from proteus_cli.serving.requests.samples.writer import SampleSettings, SampleWriter
from proteus_cli.store.samples.chunk import Chunk, read_chunk
from proteus_cli.store.samples.directory import sample_files
from proteus_cli.store.samples.export import sampled_rows

REQUESTS = 400


@contextmanager
def captured(root: Path, share: float) -> Iterator[SampleWriter]:
    writer = SampleWriter(SampleSettings(root, share, 2**30, 3600.0), lambda: 1_800_000_000.0)
    with writer.running():
        yield writer


def played(root: Path, share: float, story: Callable[[World], Awaitable[None]], latency_s: float = AT_ONCE_S) -> None:
    with captured(root, share) as writer:
        run(story, latency_s, sample_writer=writer)
    assert writer.has_room(writing.HELD_BYTES), "what was held is free again"


def chunks(root: Path) -> list[Chunk]:
    return [read_chunk(each.path) for each in sample_files(root) if each.is_chunk]


async def settled(world: World) -> None:
    while world.plane.results.in_flight_count:
        await asyncio.sleep(0.001)


def test_a_share_of_requests_is_kept_with_inputs_and_answers_and_others_are_left_alone(tmp_path: Path) -> None:
    chosen: list[tuple[float, float]] = []

    async def story(world: World) -> None:
        for number in range(REQUESTS):
            request = world.submit(number, 2.0 * number + 1, client_id=f"r{number}")
            if request.observers:
                chosen.append((number, 2.0 * number + 1))
            await settled(world)
        assert world.counted == {Outcome.SERVED: REQUESTS}
        assert len(world.results) == REQUESTS

    played(tmp_path, 0.1, story)
    found = chunks(tmp_path)
    assert 10 < len(chosen) < 90
    assert [tuple(row) for each in found for row in each.rows[0].tolist()] == chosen
    assert [r.id for each in found for r in each.requests] == [f"r{number:.0f}" for number, _ in chosen]
    assert all(each.classes.tolist() == [1] * len(each.classes) for each in found)
    margins = [2 * (second - first) for first, second in chosen]
    assert np.allclose(np.concatenate([each.confidences for each in found]), margins)


def test_labels_that_are_told_are_joined(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for number in range(50):
            world.submit(number, 0.0, client_id=f"r{number}")
            await settled(world)
        samples = world.plane.samples
        assert samples is not None
        for number in range(50):
            samples.told("f", f"r{number}", [number % 2])
            samples.told("f", f"r{number}", [9])  # once is enough
        samples.told("f", "never-asked", [1])

    played(tmp_path, 1.0, story)
    found = sampled_rows(tmp_path, "f", since_unix_s=0.0, labelled_only=True)
    assert found.labels.tolist() == [int(value) % 2 for value in found.inputs["x"][:, 0].tolist()]
    assert len(found.labels) > 40


def test_a_label_is_of_the_last_answer_to_its_id_whether_that_was_captured_or_not(tmp_path: Path) -> None:
    """Each second one is captured: of `again`, the first; of `twice`, both."""

    async def story(world: World) -> None:
        samples, answers = world.plane.samples, world.plane.answers
        assert samples is not None
        assert answers is not None
        for place, (client_id, is_captured) in enumerate(
            [("again", True), ("again", False), ("twice", True), ("twice", True), ("once", True), ("other", False)]
        ):
            samples.next_id = place if is_captured else 10**9
            world.submit(place, 0.0, client_id=client_id)
            await settled(world)
        for client_id in ("again", "twice", "once", "other"):
            samples.told("f", client_id, [7])

    with captured(tmp_path, 1.0) as writer:
        run(story, AT_ONCE_S, sample_writer=writer, keep_answers_s=3600.0)
    found = sampled_rows(tmp_path, "f", since_unix_s=0.0, labelled_only=True)
    assert found.inputs["x"][:, 0].tolist() == [3, 4]


def test_a_family_that_is_gone_leaves_no_counts_and_no_label_to_one_of_its_name(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.submit(1.0, 0.0, client_id="r1")
        await settled(world)
        samples = world.plane.samples
        assert samples is not None
        samples.dropped["f", "busy"] += 1
        samples.writer.failed["f"] += 2
        assert dict(samples.counts().captured) == {"f": 1}
        plane = world.plane
        served = plane.families.by_name["f"]
        await world.fleet.deploy(make_plan(demand_qps={"f": 0.0}, devices=["cpu0"]))
        for families in ([], [served]):  # it is removed, and comes back
            plane.use_families(families, [each.name for each in families])
        world.results.clear()  # they are counted no more
        samples.told("f", "r1", [1])
        assert (dict(samples.counts().captured), dict(samples.counts().dropped)) == ({}, {})

    played(tmp_path, 1.0, story)
    assert [each.is_chunk for each in sample_files(tmp_path)] == [True]


def test_a_bug_in_the_thread_is_told_and_counted_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = iter([True])

    def content(*given: object) -> bytes:
        if next(failing, False):
            raise KeyError("nobody expects it")
        return usual(*given)  # type: ignore[arg-type]

    usual = writing._content
    monkeypatch.setattr(writing, "_content", content)
    monkeypatch.setattr(writing, "CHUNK_ITEMS", 4)

    async def story(world: World) -> None:
        for number in range(8):
            world.submit(number, 0.0)
            await settled(world)

    with captured(tmp_path, 1.0) as writer:
        run(story, AT_ONCE_S, sample_writer=writer)
    assert writer.has_room(writing.HELD_BYTES)
    assert writer.failed == {"f": 4}
    assert [len(each.requests) for each in chunks(tmp_path)] == [4]
    assert "a bug while samples were written" in caplog.text


def test_requests_that_are_not_answered_leave_nothing_behind(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for number in range(8):
            request = world.submit(number, 0.0)
            world.plane.admission.cancel(request)
            del world.submitted[:], request
        await settled(world)
        for number in range(100):
            with contextlib.suppress(RequestError):  # refused, as too many wait
                world.submit(number, 0.0)
        del world.submitted[:]
        await settled(world)
        world.executor.held.clear()

    played(tmp_path, 1.0, story, SLOW_S)
    assert chunks(tmp_path) == []


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proteus_cli.serving.requests.samples.capture.LARGEST_BYTES", 16)
    monkeypatch.setattr(writing, "HELD_ITEMS", 3)

    async def story(world: World) -> None:
        world.submit(*[0.0] * 6)
        for number in range(6):
            world.submit(number, 0.0)
        samples = world.plane.samples
        assert samples is not None
        dropped = samples.counts().dropped
        assert dropped["f", "large"] <= 1
        assert dropped["f", "busy"] >= 1
        await settled(world)
        assert len(world.results) == 7

    played(tmp_path, 1.0, story)
    assert sum(len(each.requests) for each in chunks(tmp_path)) <= 3


def test_a_disk_that_takes_nothing_loses_samples_and_no_request(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("a file in the way")

    async def story(world: World) -> None:
        for number in range(20):
            world.submit(number, 0.0)
            await settled(world)
        assert world.counted == {Outcome.SERVED: 20}

    with captured(tmp_path / "samples", 1.0) as writer:
        run(story, AT_ONCE_S, sample_writer=writer)
    assert writer.failed["f"] > 15
    assert writer.has_room(writing.HELD_BYTES)


def test_files_are_bounded_in_requests_and_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "CHUNK_ITEMS", 10)
    writer = SampleWriter(SampleSettings(tmp_path, 1.0, 6_000, 3600.0), lambda: 1_800_000_000.0)

    async def story(world: World) -> None:
        for number in range(100):
            world.submit(number, 0.0)
            await settled(world)

    with writer.running():
        run(story, AT_ONCE_S, sample_writer=writer)
    files = sample_files(tmp_path)
    assert 0 < sum(each.size_bytes for each in files) <= 6_000
    assert all(len(each.requests) <= 10 for each in chunks(tmp_path))
    last = max(row[0] for each in chunks(tmp_path) for row in each.rows[0].tolist())
    assert last >= 90, "the newest stay"
