"""What the benchmark of version roll-outs on a server makes of models and of verdicts; and its clients."""

import asyncio

import msgspec
import numpy as np
import pytest

from benchmarks.lifecycle import labelling
from benchmarks.lifecycle.canaries import NEARLY, Case, Verdict, aims, noise_for
from benchmarks.lifecycle.labelling import Labelling
from benchmarks.lifecycle.swap import Losses
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rollouts import Ending, RolloutStage
from proteus_cli.replay.http_client import HttpReply
from proteus_cli.replay.inputs import Sample
from proteus_cli.replay.target import Reply

FINE = Losses(1_000, 0, 0.001)


BY_ACCURACY = "the guard fails: accuracy >= old - 0.005 (90 %, old 92 %, 100 queries)"


def case(
    *, is_worse: bool, ending: Ending | None, labelled: int = 100, losses: Losses = FINE, reason: str = BY_ACCURACY
) -> Case:
    return Case(is_worse, 0, 0.02 * is_worse, 100.0, Verdict(ending, labelled, 5.0, 20.0, reason), losses)


@pytest.mark.parametrize("cost", [0.01, 0.05, 0.4])
def test_the_noise_of_a_worse_version_costs_nearly_what_it_should(cost: float) -> None:
    def lost(noise: float) -> float:
        return round(1000 * cost * noise * noise) / 1000  # in steps, as of a split of 1,000 rows

    assert lost(noise_for(lost, 0.02)) == pytest.approx(0.02, abs=NEARLY)


def test_a_loss_that_no_noise_costs_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"no noise costs 2\.0%"):
        noise_for(lambda _noise: 0.001, 0.02)


def test_equal_versions_are_to_be_promoted_and_worse_ones_rolled_back_soon() -> None:
    right = [case(is_worse=False, ending=None), case(is_worse=True, ending=Ending.ROLLED_BACK)]
    assert [aim.is_reached for aim in aims(right)] == [True, True, True]
    wrong = [
        *right,
        case(is_worse=False, ending=Ending.ROLLED_BACK, losses=Losses(1_000, 1, 0.001)),
        case(is_worse=True, ending=Ending.ROLLED_BACK, labelled=2_000),
        case(is_worse=True, ending=Ending.ROLLED_BACK, reason="the guard fails: p99 <= slo (3 % late, 100 queries)"),
        case(is_worse=True, ending=Ending.ROLLED_BACK, reason="undecided after 9 queries: accuracy >= old - 0.005"),
        case(is_worse=True, ending=None),
        case(is_worse=True, ending=Ending.FAILED),
        Case(False, 1, 0.0, 100.0, RolloutStage.SHADOW, FINE),
    ]
    assert [(aim.measured, aim.limit, aim.is_reached) for aim in aims(wrong)] == [
        (1, 3, False),
        (1, 6, False),
        (1, 0, False),
    ]


class Server:
    """Answers with a variant as long as it has ``variants``, then 503; it takes so many labels of those told."""

    def __init__(self, *variants: str, takes: int = 1_000) -> None:
        self.variants, self.takes, self.asked, self.labels = list(variants), takes, list[str](), dict[str, int]()

    def head(self, method: str, path: str) -> bytes:
        return f"{method} {path}".encode()

    async def post(self, head: bytes, headers: bytes, body: bytes) -> HttpReply:
        if head.endswith(b"/feedback"):
            items = msgspec.json.decode(body)["feedback"]
            self.labels |= {item["id"]: item["label"] for item in items}
            return HttpReply(200, {}, msgspec.json.encode({"accepted": min(len(items), self.takes)}))
        length = int(headers.partition(b"Content-Length: ")[2])
        self.asked.append(msgspec.json.decode(body[:length])["id"])
        assert body[length:] == b"rows"
        if not self.variants:
            return HttpReply(503)
        answer = msgspec.json.encode({"parameters": {"variant": self.variants.pop(0)}})
        return HttpReply(200, {b"inference-header-content-length": b"%d" % len(answer)}, answer + b"scores")


def labelling_clients(server: Server) -> Labelling:
    sample = Sample(b"[]", b"rows", label=3)
    return Labelling(server, "digits", [sample], np.random.default_rng(0))  # type: ignore[arg-type]


async def told(clients: Labelling, requests: int) -> list[Reply]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        telling = group.create_task(clients.tell_all())
        replies = [await clients.send("digits", number, 0.1, 0.0) for number in range(requests)]
        answered = sum(reply.outcome is Outcome.SERVED for reply in replies)
        while sum(clients.told.values()) < answered:
            await asyncio.sleep(0)
        telling.cancel()
    return replies


def test_clients_tell_the_label_of_each_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "TELL_S", 0.0)
    server = Server("l", "l@2", "l")
    clients = labelling_clients(server)
    replies = asyncio.run(told(clients, 4))
    assert [(reply.outcome, reply.variant) for reply in replies] == [
        (Outcome.SERVED, "l"), (Outcome.SERVED, "l@2"), (Outcome.SERVED, "l"), (Outcome.REJECTED, None),
    ]  # fmt: skip
    assert server.asked == ["0", "1", "2", "3"]
    assert server.labels == {"0": 3, "1": 3, "2": 3}
    assert clients.told == {"l": 2, "l@2": 1}


def test_labels_that_a_server_does_not_take_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "TELL_S", 0.0)
    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(told(labelling_clients(Server("l", takes=0)), 1))
    assert raised.group_contains(AssertionError, match="0 of 1 labels were accepted")
