"""The table `[family.task]`, and the user's own command in it."""

import pytest

from proteus_cli.domain.catalog import Task


def test_paths_are_words_of_their_own_in_a_command_whatever_they_hold() -> None:
    task = Task("d.npz", retrain="python 'my train.py' --rows={data} {out}")
    assert task.command("a b.npz", "$(rm)") == ["python", "my train.py", "--rows=a b.npz", "$(rm)"]


@pytest.mark.parametrize(
    ("retrain", "problem"),
    [
        ("", "must name {data} and {out}"),
        ("train.py", "must name {data} and {out}"),
        ("train.py {data}", "must name {data} and {out}"),
        ("train.py {data} {out} {seed}", "and nothing else"),
        ("train.py {data} {out} {", "is no command"),
        ("train.py {data} '{out}", "is no command"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(retrain: str, problem: str) -> None:
    with pytest.raises(ValueError, match="retrain of a task") as raised:
        Task("d.npz", retrain=retrain)
    assert problem in str(raised.value)
