from proteus_cli.simulation.events import Action, Events


def test_actions_run_in_order_of_time_and_then_of_scheduling() -> None:
    events, seen = Events(), list[tuple[float, str]]()

    def noted(name: str) -> Action:
        return lambda now_s: seen.append((now_s, name))

    for time_s, name in ((2.0, "late"), (1.0, "first"), (1.0, "second"), (0.5, "early")):
        events.at(time_s, noted(name))
    events.run_until(2.0)
    assert seen == [(0.5, "early"), (1.0, "first"), (1.0, "second"), (2.0, "late")]


def test_what_is_later_waits_for_the_next_run() -> None:
    events, seen = Events(), list[float]()
    events.at(1.0, seen.append)
    events.at(1.1, seen.append)
    events.run_until(1.0)
    assert seen == [1.0]
    events.run_until(9.0)
    assert seen == [1.0, 1.1]


def test_an_action_may_schedule_more_within_the_same_run() -> None:
    events, seen = Events(), list[float]()

    def again(now_s: float) -> None:
        seen.append(now_s)
        if now_s < 3:
            events.at(now_s + 1, again)

    events.at(1.0, again)
    events.run_until(2.5)
    assert seen == [1.0, 2.0]
    events.run_until(float("inf"))
    assert seen == [1.0, 2.0, 3.0]
