from proteus_cli.simulation.events import Action, Events, Timer


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


def test_a_timer_goes_off_at_its_last_setting_only() -> None:
    events, seen = Events(), list[float]()
    timer = Timer(seen.append)
    for settings_s, due_s in (((1.0, 3.0, 2.0), 2.0), ((9.0, 4.0, 5.0), 5.0), ((6.0,), 6.0)):
        for each_s in settings_s:
            events.set_timer(timer, each_s)
        events.run_until(10.0 if due_s == 6.0 else due_s)
        assert seen.pop() == due_s
        assert not seen


def test_of_timers_of_one_time_the_one_that_was_set_last_goes_off_last() -> None:
    events, seen = Events(), list[str]()
    first, second = Timer(lambda _: seen.append("first")), Timer(lambda _: seen.append("second"))
    for timer, time_s in ((first, 1.0), (second, 1.0), (first, 2.0)):
        events.set_timer(timer, time_s)
    events.set_timer(second, 2.0)
    events.set_timer(first, 2.0)
    events.at(2.0, lambda _: seen.append("last"))
    events.run_until(2.0)
    assert seen == ["second", "first", "last"]


def test_a_timer_may_be_set_again_by_its_action() -> None:
    events, seen = Events(), list[float]()

    def again(now_s: float) -> None:
        seen.append(now_s)
        if now_s < 3:
            events.set_timer(timer, now_s + 1)

    timer = Timer(again)
    events.set_timer(timer, 1.0)
    events.run_until(9.0)
    assert seen == [1.0, 2.0, 3.0]
    assert not events


def test_a_timer_that_is_set_many_times_is_queued_once() -> None:
    events, timer = Events(), Timer(lambda _: None)
    for time_s in range(1, 100):
        events.set_timer(timer, time_s)
    assert len(events) == 1
