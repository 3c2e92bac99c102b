"""What agents remember from run to run."""
