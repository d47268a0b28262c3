"""How a command line is read: names, defaults and sections of options, completion, and what their texts stand for."""
