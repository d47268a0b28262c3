"""Answers in stages: cascades of two variants, models with several exits, and the confidence that both go by."""
