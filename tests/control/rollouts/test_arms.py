"""Values of two arms become differences: each value once, as soon as there are enough of the other arm."""

from collections.abc import Iterator

from proteus_cli.control.rollouts.comparison import MAX_WAITING, Arms


def differences(arms: Arms, order: str) -> Iterator[float]:
    """Of values that tell themselves apart: the n-th of either arm is n, those of the old one in thousandths."""
    new = old = 0
    for arm in order:
        if arm == "n":
            new += 1
            yield from arms.saw_new(float(new))
        else:
            old += 1
            yield from arms.saw_old(old / 1000)


def test_at_equal_shares_each_value_has_one_of_the_other_arm() -> None:
    arms = Arms()
    arms.split(0.5)
    assert list(differences(arms, "nnoon" + "ooo")) == [1 - 0.001, 2 - 0.002, 3 - 0.003]


def test_a_rare_new_version_has_the_mean_of_what_came_meanwhile() -> None:
    arms = Arms()
    arms.split(0.2)  # four of the old version for each
    assert list(differences(arms, "oooo" + "n")) == [1 - 0.0025]
    assert list(differences(arms, "no" + "o")) == [1 - 0.0015]  # half as many are enough


def test_where_labels_come_more_often_for_one_arm_its_values_do_not_wait_for_what_never_comes() -> None:
    """At a share of a hundredth, with as many labels of either arm."""
    arms = Arms()
    arms.split(0.01)
    found = list(differences(arms, "no" * 500))
    assert len(found) > 300


def test_the_oldest_values_are_forgotten_where_one_arm_has_none() -> None:
    arms = Arms()
    for value in range(MAX_WAITING + 5):
        assert list(arms.saw_old(float(value))) == []
    assert list(arms.saw_new(0.0)) == [-15.0]  # the mean of the 21 oldest that are left, from 5 on
