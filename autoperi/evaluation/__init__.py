"""Evaluations: a model against a table of crystals, each returning one JSON-ready dictionary."""
