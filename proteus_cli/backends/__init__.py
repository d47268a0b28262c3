"""What builds and runs models: one module per runtime, opened lazily."""
