"""docs/architecture.md names only what exists, and links lead to pages and headings."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "proteus_cli"
PATHS = re.compile(r"`([a-z_0-9]+(?:/[a-z_0-9]+)*(?:/|\.py))`")
LINKS = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def test_every_path_on_the_page_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(PATHS.findall(page)) - {"tests/", "proteus_cli/"}
    assert len(named) > 20
    assert [path for path in sorted(named) if not (PACKAGE / path).exists()] == []


def test_every_link_between_the_docs_leads_to_a_page_and_a_heading() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "engines" / "train" / "README.md"]
    links = [(page, *link) for page in pages for link in LINKS.findall(page.read_text(encoding="utf-8"))]
    local = [(page, page.parent / path if path else page, anchor) for page, path, anchor in links if ":" not in path]
    assert len(local) > 20
    assert [(page.name, str(target)) for page, target, _ in local if not target.exists()] == []
    within = [(page.name, target, anchor) for page, target, anchor in local if anchor and target.suffix == ".md"]
    assert [(page, target.name, anchor) for page, target, anchor in within if anchor not in anchors(target)] == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_that_messages_and_recipes_name_exists() -> None:
    sources = [each for top in (PACKAGE, ROOT / "deploy") for each in top.rglob("*") if each.is_file()]
    text = "".join(each.read_text(encoding="utf-8", errors="ignore") for each in sources)
    named = set(re.findall(r"(?<![/\w])docs/[a-z]+\.md(?! of )", text))
    assert len(named) > 5
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []
