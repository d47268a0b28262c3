"""A class name has one meaning in the whole package (docs/glossary.md), also that of a module's own class."""

import re
from collections import defaultdict
from pathlib import Path

import proteus_cli

CLASS = re.compile(r"^class (\w+)", re.MULTILINE)


def test_no_class_name_stands_in_two_modules() -> None:
    package, modules = Path(proteus_cli.__file__).parent, defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for name in CLASS.findall(path.read_text(encoding="utf-8")):
            modules[name].append(str(path.relative_to(package)))
    assert len(modules) > 500
    assert {name: places for name, places in modules.items() if len(places) > 1} == {}
