"""What was found, for the terminal and as Markdown."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.text import Text

from benchmarks.paper.results import Benchmark, Section
from benchmarks.tables import aim_line, rich_table, table_lines

INTRODUCTION = """\
# The paper's experiments, and ours beside them

The command below writes this page but its last section, so run it again after a change. Each run uses the functions of
`proteus replay`, in simulation, and the benchmark checks that every query ended exactly once. Violations are always
counted at the SLO: late, dropped, refused and failed queries over all queries.

The paper is Ahmad et al., *Proteus: A High-Throughput Inference-Serving System with Accuracy Scaling*, ASPLOS 2024.
`docs/policies.md` describes the policies. The paper's profiles and trace aren't part of this repository: they are
read from `../shared/data/proteus-asplos24` beside it; without them synthetic traces run on a synthetic cluster.
Figures 5 to 8 were published as plots only, so only their shapes can be compared.
"""

OTHERS = "## Other arrivals"
"""The heading of the last section, whose benchmark is `benchmarks.arrivals`."""


def shown(done: Benchmark) -> RenderableType:
    """Tables and remarks for the terminal; the prose is for the page."""
    parts: list[RenderableType] = []
    for section in done.sections:
        parts.append(Text(f"\n{section.title}", style="bold underline"))
        parts += [rich_table(table) for table in section.tables]
        parts += [Markdown(remark) for remark in section.remarks]
        parts += [Text(aim_line(aim), style="green" if aim.is_reached else "red") for aim in section.aims]
    parts += [Text(text, style="yellow") for text in done.skipped]
    parts.append(Text(f"\n{len(done.runs)} runs in {done.seconds:.0f} s; {done.machine}; {_versions(done)}"))
    return Group(*parts)


def renewed(page: str, done: Benchmark) -> str:
    """The page of what was found, with the section about other arrivals, of another benchmark, that the old one has."""
    _, heading, others = page.partition(OTHERS)
    return markdown(done) + (f"\n{heading}{others}" if heading else "")


def markdown(done: Benchmark) -> str:
    """The whole page; pictures lie beside it."""
    lines = [INTRODUCTION, *_made(done)]
    for section in done.sections:
        lines += ["", f"## {section.title}", "", *_section(section)]
    return "\n".join(lines).rstrip() + "\n"


def tables(done: Benchmark) -> str:
    """All tables and nothing else."""
    return (
        "\n".join(line for section in done.sections for table in section.tables for line in table_lines(table)) + "\n"
    )


def _made(done: Benchmark) -> Iterator[str]:
    runs, queries = len(done.runs), sum(run.requests for run in done.runs)
    yield f"    {done.command}"
    yield ""
    yield f"{runs} runs of {queries:,} queries together, on {done.cluster}; {done.seconds:,.0f} s on {done.machine};"
    yield f"{_versions(done)}; {done.made_by.time[:10]}."
    for text in done.skipped:
        yield f"\n**{text}**"


def _section(section: Section) -> Iterator[str]:
    yield from (section.text.rstrip(), "")
    if section.picture:
        yield from (f"![{section.title}]({section.picture})", "")
    for table in section.tables:
        yield from table_lines(table)
    for remark in section.remarks:
        yield from (remark, "")
    if section.aims:
        yield from ("To be reached:", "")
        yield from (f"- {aim_line(aim)}" for aim in section.aims)
        yield ""


def _versions(done: Benchmark) -> str:
    return ", ".join(f"{name} {version}" for name, version in done.versions.items())
