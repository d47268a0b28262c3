"""Measures variants on devices, cell by cell: a cell is one batch size, and none that is current is measured twice."""
