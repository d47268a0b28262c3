"""Options of the studies, one module a study."""
