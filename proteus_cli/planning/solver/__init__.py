"""The best solution of a model: one objective after another, each a program that HiGHS solves."""
