"""`fleet top`: the fleet in a terminal."""
