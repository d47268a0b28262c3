"""docs/architecture.md names only what exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "proteus_cli"
PATHS = re.compile(r"`([a-z_0-9]+(?:/[a-z_0-9]+)*(?:/|\.py))`")
LINKS = re.compile(r"\]\(([^)#]+\.md)[^)]*\)")


def test_every_path_on_the_page_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(PATHS.findall(page)) - {"tests/", "proteus_cli/"}
    assert len(named) > 20
    assert [path for path in sorted(named) if not (PACKAGE / path).exists()] == []


def test_every_link_between_the_docs_exists() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    links = [(page, link) for page in pages for link in LINKS.findall(page.read_text(encoding="utf-8"))]
    local = [(page, link) for page, link in links if "://" not in link]
    assert len(local) > 20
    assert [(page.name, link) for page, link in local if not (page.parent / link).exists()] == []
