"""The frame of a report page: everything it needs is in it, in light and dark, on desks and phones."""

from string import Template

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d5dae0; --best: #e8f2ec; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e4e8ec; --soft: #9aa4af; --rule: #343b43; --best: #1d3328;
    --run0: #2f8fd6; --run2: #2cc596; --run5: #9ad8ff; --run6: #a0a0a0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { margin: 0 0 .5rem; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .5rem; font-size: 1.2rem; }
h3 { margin: 1rem 0 .25rem; font-size: 1rem; }
h3::first-letter { text-transform: uppercase; }
p, dl { margin: 0 0 .75rem; }
.facts { display: flex; flex-wrap: wrap; gap: .25rem 1.75rem; }
.facts dt, .note, figcaption, footer { color: var(--soft); font-size: .875rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.beside { display: flex; flex-wrap: wrap; gap: 1.5rem 2rem; }
.beside > * { min-width: 0; max-width: 100%; }
.beside > .plots { flex: 1 1 min(100%, 26rem); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.5rem 2rem; }
figure { margin: 0; min-width: 0; max-width: 40rem; }
figure h3 { margin: 0; font-size: 1rem; }
figure > div > svg { display: block; overflow: visible; width: 100%; height: auto; margin-top: .25rem;
  stroke-linejoin: round; }
figure.cells > div { overflow-x: auto; }
figure.cells > div > svg { min-width: 30rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: .25rem 0 0; padding: 0; list-style: none;
  font-size: .875rem; }
.legend li { display: flex; align-items: center; gap: .375rem; overflow-wrap: anywhere; }
.key { flex: none; width: 2.9rem; height: 1rem; }
.keys { position: absolute; width: 0; height: 0; }
.scroll { overflow: auto; max-height: min(60rem, 90vh); max-width: 100%; width: fit-content; }
.scroll:focus-visible { outline: 2px solid var(--soft); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--paper); vertical-align: bottom;
  white-space: normal; min-width: 4rem; }
thead th:first-child { left: 0; z-index: 2; }
thead tr + tr th { top: 1.9rem; }
tbody th { position: sticky; left: 0; background: var(--paper); font-weight: 400; }
tbody th, th.text, td.text { text-align: left; }
th.sub { padding-left: 1.75rem; color: var(--soft); }
th.group { text-align: center; }
tr.group th { padding-top: .6rem; font-weight: 600; }
td.wide { min-width: 16rem; white-space: normal; text-align: left; color: var(--soft); font-size: .8rem; }
summary { margin: .75rem 0; cursor: pointer; }
td.best { font-weight: 700; background: var(--best); }
.terms { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .75rem 2rem; }
.terms dt { font-weight: 600; }
.terms dd { margin: 0; }
footer { margin-top: 2rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 1rem .75rem 2rem; }
  table { font-size: .85rem; }
  th, td { padding: .25rem .4rem; }
  th.sub { padding-left: 1rem; }
  figure.lines svg text { font-size: 12px !important; }
}
@media print { .scroll { max-height: none; } }
"""

PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<dl class="facts">
$facts
</dl>
</header>
<main>
$sections
</main>
<footer>$footer</footer>
</body>
</html>
""")

TERMS = {
    "SLO violations": "requests that were late, dropped, rejected or failed, of all requests; late: answered after the "
    "request's own deadline, counted from when it was scheduled to arrive.",
    "effective accuracy": "mean accuracy of the variants that answered, over answered queries.",
    "relative accuracy": "the same with each accuracy divided by that of the best variant of the query's family.",
    "max accuracy drop": "100 % less the lowest relative accuracy over stretches of 10 s, in percentage points.",
    "throughput, goodput": "answers, and answers on time, over the duration of the run.",
    "mean batch": "rows of a batch, over batches.",
    "swaps": "variants loaded when the plan changed.",
}
