"""The kinds of models of a task, for recipes and for the help of a command, which must import no more than this."""

LADDER = ("linear", "forest-8", "mlp-16", "forest-32", "mlp-64", "boost-32", "forest-128", "mlp-256", "mlp-512-512")
"""In the order in which they are trained: the cheapest first, as the time for training is limited."""
