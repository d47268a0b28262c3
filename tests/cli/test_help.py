"""What `--help` says of each command: examples that work, words that are whole, options without types in brackets."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import proteus
from typer.main import get_command

from proteus_cli.cli.command_line.examples import EXAMPLES
from proteus_cli.cli.command_line.sections import SECTIONS
from proteus_cli.cli.main import app

COLUMNS = 80


def paths(command: Any, path: tuple[str, ...] = ("proteus",)) -> Iterator[tuple[str, Any]]:
    """Each command and group, by how it is called."""
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))


COMMANDS = dict(paths(get_command(app)))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def told(path: str) -> str:
    done = proteus(*path.split()[1:], "--help")
    assert done.code == 0, done
    return done.stdout


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("path", COMMANDS)
def test_help_ends_with_two_examples_and_fits_eighty_columns(path: str) -> None:
    lines = told(path).splitlines()
    examples = [line for line, _ in EXAMPLES[path]]
    place = lines.index("Examples:") + 1
    assert [line.strip() for line in lines[place : place + 4 : 2]] == examples
    assert all(example.startswith(("proteus ", f"{path} ")) for example in examples)
    assert max(map(len, lines)) <= COLUMNS


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("path", COMMANDS)
def test_help_breaks_no_word_and_shows_no_types_in_brackets(path: str) -> None:
    """Each word of what a command says of itself and of its options is there as it was written."""
    text, command = told(path), COMMANDS[path]
    assert not re.search(r"<(bool|str|int|float|path)", text)
    written = [command.help or "", *(parameter.help or "" for parameter in command.params)]
    words = {word for said in written for word in said.split()}
    assert words <= set(text.split())


@pytest.mark.parametrize("path", COMMANDS)
def test_sections_have_the_same_names_and_order_in_all_commands(path: str) -> None:
    lines = told(path).splitlines()
    titles = [line.removesuffix(":") for line in lines if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    found = [title for title in titles if title not in {"Commands", "Examples"}]
    assert found == [title for title in SECTIONS if title in found]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("path", ["proteus serve"])
def test_a_command_with_settings_spells_out_few_options_and_names_the_place_of_the_others(path: str) -> None:
    text = told(path)
    options = text[text.index("Options:\n") : text.index("Examples:\n")]
    assert len(re.findall(r"^  (?:-w, )?--([a-z-]+)", options, re.MULTILINE)) <= 14
    assert text.endswith("More: docs/cli.md, `--set`\n")


def test_there_are_no_examples_of_commands_that_are_gone() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("line", [line for pair in EXAMPLES.values() for line, _ in pair])
def test_an_example_names_a_command_and_options_that_there_are(line: str) -> None:
    _, *words = shlex.split(line)
    command: Any = COMMANDS["proteus"]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-") and word != "--help"} <= known
    assert len([parameter for parameter in command.params if parameter.required]) <= len(words)


def test_long_names_of_options_have_a_line_of_their_own() -> None:
    lines = told("proteus agent").splitlines()
    place = lines.index("  --log-level <debug|info|warning|error>")
    assert lines[place + 1].strip().startswith("What to log")


def test_each_command_has_its_place_in_the_help() -> None:
    listed = re.findall(r"^  (\w+)  ", told("proteus").partition("Commands:")[2], re.MULTILINE)
    assert listed == [path.split()[1] for path in EXAMPLES if path.count(" ") == 1]
    assert sorted(listed) == sorted(path.split()[1] for path in COMMANDS if path.count(" ") == 1)
