"""A memo holds a bounded number of things."""

from proteus_cli.serving.memory import remember


def test_a_full_memo_is_emptied_before_the_next_thing_is_remembered() -> None:
    known = dict[str, int]()
    for place, key in enumerate("abcd"):
        remember(known, key, place, 3)
        assert len(known) <= 3
    assert known == {"d": 3}
