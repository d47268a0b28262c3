"""The commands: one module each here, or in `groups/` those that have commands of their own."""
