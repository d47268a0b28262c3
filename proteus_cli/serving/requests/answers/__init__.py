"""What becomes of answers on their way out, and after: classes, exits, second stages of cascades, checks, the log."""
