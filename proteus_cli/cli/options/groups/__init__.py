"""Options of the commands that have commands of their own, one module for each of these."""
