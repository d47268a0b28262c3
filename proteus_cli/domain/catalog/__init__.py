"""What can be served: families and their variants, how a family is trained and what it prefers, and what changes."""
