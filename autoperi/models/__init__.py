"""Models, one file a system; each builds itself from a plain config dictionary."""
