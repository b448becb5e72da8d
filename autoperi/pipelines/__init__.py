"""From a request to crystals: streams of candidates, checks, ranking."""
