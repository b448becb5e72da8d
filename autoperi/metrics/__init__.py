"""Metrics: pure functions of structures."""
