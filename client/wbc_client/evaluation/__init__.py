"""Measuring a model on a clinic's own cells: counts that add over clinics."""
