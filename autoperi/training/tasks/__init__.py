"""What each kind of network is trained on, one file a kind."""
