"""Answers on their way out, and after: second stages of cascades, exits, and the log of answers."""
