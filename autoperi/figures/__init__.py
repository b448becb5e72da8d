"""Figures as files: parity plots, histograms, curves, bars and hull diagrams, drawn from plain data."""
