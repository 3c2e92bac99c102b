"""Types and names that workflows, workers and clients share. Imports nothing of the project but itself."""
