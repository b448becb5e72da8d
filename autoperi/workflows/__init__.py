"""Workflows: what takes many requests of one model, such as a whole chemical system, or writes one in many pieces."""
