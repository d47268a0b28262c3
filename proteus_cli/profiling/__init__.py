"""Measuring variants on devices, cell by cell, so that nothing current is measured twice."""
