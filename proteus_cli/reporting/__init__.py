"""Reports of runs: measures, gates, tables in a terminal, plots, and a page.

`measures` makes a report of the requests of a run. `comparison` puts reports side by side as text, which
`terminal_tables` and `html_page` arrange. `line_plots` and `heatmaps` draw, `plots` lists what is drawn.
"""
