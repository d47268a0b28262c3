"""Studies: questions about models, devices and servers that are answered by measuring.

Theory of operation. A *kind* of study (`kinds.py`) makes a `StudyDraft` (`draft.py`) of a workspace: what is studied,
digests of what that is made of, and *jobs*. A job measures one *cell*, and knows how long it wants to. `run_study`
(`run.py`) takes the jobs in order, gives each its part of the budget (`budget.py`), and writes ``studies/NAME.json``
after each: whole or not at all. What ends the run, a signal or an error, leaves the cells that were finished. The next
run with the same kind, options and inputs keeps them, and measures the others; other options or inputs start anew.

Meanwhile `telemetry/` samples what the machine does, in a thread, in bounded memory: of the tree of processes that the
study has, of the machine and of its GPUs. Samples and cells have one clock. Each cell also has its own load: the mean
of each measure while it ran.

When the jobs are done, what all cells say together is concluded, and beside the JSON file, a CSV file and a page are
written (`artefacts.py`). Pages are made in `studies/pages/`, one module a kind, of the values in
`studies/results.py`.

Invariants: a cell says whether it is simulated, emulated or measured. A cell that failed says why. No file is ever half
written. No cell is measured twice unless asked to.
"""
