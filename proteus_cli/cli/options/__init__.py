"""The options of the commands, their defaults from `proteus.toml`, and their names of old.

Options may have the names of domain classes, so commands import the module: `options.Plan` is an option, `Plan` a plan.
"""
