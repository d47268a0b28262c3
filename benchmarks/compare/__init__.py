"""This tree against another checkout of the project."""
