"""Physics: distances, losses and constraints that need no trained model."""
