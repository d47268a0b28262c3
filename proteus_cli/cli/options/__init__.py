"""The options of the commands, one alias a line, a module for each command or group.

Options may have the names of domain classes, so commands import the module: `options.Plan` is an option, `Plan` a plan.
"""
