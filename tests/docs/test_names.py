"""A class name has one meaning in the whole package (docs/glossary.md)."""

import re
from collections import defaultdict
from pathlib import Path

import proteus_cli

CLASS = re.compile(r"^class ([A-Za-z]\w*)", re.MULTILINE)  # a name with an underscore is a module's own


def test_no_class_name_stands_in_two_modules() -> None:
    package, modules = Path(proteus_cli.__file__).parent, defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for name in CLASS.findall(path.read_text(encoding="utf-8")):
            modules[name].append(str(path.relative_to(package)))
    assert len(modules) > 500
    assert {name: places for name, places in modules.items() if len(places) > 1} == {}
