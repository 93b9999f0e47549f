"""What a run writes down round by round, so that a stop at any moment loses the round in flight at most."""
