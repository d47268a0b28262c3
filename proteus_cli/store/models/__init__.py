"""Files of models: read and changed, and what is put in front of a model, behind it, or of several into one file."""
