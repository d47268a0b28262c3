"""What a run found: measures, gates, tables, plots and pages."""
