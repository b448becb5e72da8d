"""Crystals as data: batches, conversion, files, elements, random numbers, splits."""
