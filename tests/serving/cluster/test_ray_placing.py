"""Which nodes are hosts, and when they are reported, with a double of Ray."""

from collections.abc import Mapping, Sequence

from proteus_cli.serving.cluster.ray_placing import Listed, Placing, Problem, RayNode, RayReport, named

AT = ("10.0.0.1", 7000)


def node(number: int, name: str = "", machine: str = "") -> RayNode:
    address = f"10.0.0.{number}"
    return RayNode(f"id{number}", name or address, machine or f"box{number}", address)


def test_hosts_are_called_as_their_nodes_or_else_as_their_machines() -> None:
    assert named([node(1), node(2, "gpus")], {}) == {"id1": "box1", "id2": "gpus"}
    assert named([node(1, machine="_")], {}) == {"id1": "10.0.0.1"}
    assert named([RayNode("id1", "::1", "_", "::1")], {}) == {"id1": "id1"}


def test_of_nodes_with_one_name_one_is_a_host_and_remains_it() -> None:
    both = [node(1, "a"), node(2, "a")]
    assert named(both, {}) == {"id1": "a"}
    assert named(both, {"id2": "a"}) == {"id2": "a"}
    assert named([node(1, "b"), node(2, "a")], {"id1": "a"}) == {"id1": "a"}, "a name is kept"


class Ray:
    """What there is, and what was placed."""

    def __init__(self, *nodes: RayNode) -> None:
        self.there, self.agents = list(nodes), dict[str, tuple[str, int] | str]()
        self.placed: Mapping[str, str] = {}
        self.fails: Mapping[str, str] = {}

    def nodes(self) -> Sequence[RayNode]:
        return self.there

    def place(self, hosts: Mapping[str, str], key: bytes) -> Mapping[str, str]:
        assert key == b"key"
        self.placed = hosts
        return self.fails

    def where(self) -> Mapping[str, tuple[str, int] | str]:
        return self.agents


def placing(ray: Ray) -> tuple[Placing, list[RayReport]]:
    said = list[RayReport]()
    return Placing(ray, b"key", said.append), said


def test_hosts_are_reported_once_all_are_there_or_it_took_too_long() -> None:
    ray = Ray(node(1), node(2))
    looking, said = placing(ray)
    looking.look(is_patient=True)
    ray.agents = {"id1": AT}
    looking.look(is_patient=True)
    assert not said
    assert ray.placed == {"id1": "box1", "id2": "box2"}
    looking.look(is_patient=False)
    ray.agents = {"id1": AT, "id2": ("10.0.0.2", 7000)}
    looking.look(is_patient=True)
    looking.look(is_patient=True)
    assert said == [Listed({"box1": AT}), Listed({"box1": AT, "box2": ("10.0.0.2", 7000)})]


def test_a_host_whose_actor_does_not_answer_stays_until_its_node_is_gone() -> None:
    ray = Ray(node(1))
    ray.agents = {"id1": AT}
    looking, said = placing(ray)
    looking.look(is_patient=True)
    ray.agents = {}
    looking.look(is_patient=True)
    assert said == [Listed({"box1": AT})]
    ray.there = [node(2, machine="box1")]
    ray.agents = {"id2": ("10.0.0.2", 7001)}
    looking.look(is_patient=True)
    assert said[1:] == [Listed({"box1": ("10.0.0.2", 7001)})], "the machine is back as another node"
    ray.there, ray.agents = [], {}
    looking.look(is_patient=True)
    assert said[2:] == [Listed({})]


def test_what_cannot_be_used_is_said_once() -> None:
    ray = Ray(node(1, "a"), node(2, "a"))
    ray.fails = {"id1": "it has no time"}
    looking, said = placing(ray)
    looking.look(is_patient=True)
    looking.look(is_patient=True)
    texts = [report.message for report in said if isinstance(report, Problem) and not report.is_fatal]
    assert len(texts) == len(said) == 2
    assert "several nodes of Ray are called a" in texts[0]
    assert "can't keep an agent on a: it has no time" in texts[1]


def test_why_a_node_has_no_agent_is_said_once_and_its_host_stays() -> None:
    ray = Ray(node(1), node(2))
    ray.agents = {"id1": AT, "id2": "No space left on device"}
    looking, said = placing(ray)
    looking.look(is_patient=False)
    ray.agents = {"id1": "No space left on device", "id2": "No space left on device"}
    looking.look(is_patient=False)
    looking.look(is_patient=False)
    assert [report for report in said if isinstance(report, Listed)] == [Listed({"box1": AT})]
    assert sorted(report.message for report in said if isinstance(report, Problem) and not report.is_fatal) == [
        "no agent can be started on box1: No space left on device",
        "no agent can be started on box2: No space left on device",
    ]
