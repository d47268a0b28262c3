"""Ctrl-C while the first modules are imported ends the program like any other Ctrl-C."""

import builtins
from typing import Any

import pytest

from proteus_cli import __main__ as program


def test_an_interrupt_while_modules_are_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_import = builtins.__import__

    def interrupted(name: str, *rest: Any) -> Any:
        if name == "proteus_cli.cli.main":
            raise KeyboardInterrupt
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == program.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
