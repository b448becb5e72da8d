"""Relaxation of lattices, and of positions and cells."""
