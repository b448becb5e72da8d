"""Processes: how a prediction moves a crystal; step functions without networks inside."""
