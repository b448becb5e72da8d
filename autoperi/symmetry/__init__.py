"""Space groups, Wyckoff positions, orbits and what they leave free."""
