"""Studies: questions about models, devices and servers that are answered by measuring.

Theory of operation. A *kind* of study (`kinds.py`) makes a `StudyDraft` of a workspace: the subject, digests of its
inputs, and *jobs*. A job measures one *cell* and knows the time that it wants. `run_study` (`frame.py`) takes the jobs
in order, gives each its part of the budget (`budget.py`), and writes ``studies/NAME.json`` after each cell. A signal or
an error ends the run and leaves the finished cells. The next run with the same kind, options and inputs keeps them and
measures the others. Other options or inputs start anew.

Meanwhile a thread samples the load of the machine (`telemetry.py`): the processes of the study, the
machine and its GPUs. Samples and cells have one clock. Each cell has the mean of each measure while it ran.

After the jobs, the conclusion of all cells is computed, and a CSV file and a page are written beside the JSON file
(`artefacts.py`). `pages/` has one module for each kind, which reads the values in `results.py`.

Invariants: a cell says whether it is simulated, emulated or measured. A failed cell has its reason. Each file is
written whole or not at all. A cell is measured once, unless the user asks for it again.
"""
