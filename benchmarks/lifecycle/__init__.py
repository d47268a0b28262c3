"""The life of models: versions that are put in place under load, and accuracy that is lost."""
