"""What was done to the outside world, so that nothing is done twice."""
