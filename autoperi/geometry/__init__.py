"""Geometry of periodic crystals: lattices, the torus of fractional coordinates, multigraphs and space groups."""
