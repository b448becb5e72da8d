"""The prototype prior: which structure types a composition may take, how likely each is, and what it looks like."""
