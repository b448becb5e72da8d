"""Workflows: what takes many requests of one model, such as a whole chemical system."""
