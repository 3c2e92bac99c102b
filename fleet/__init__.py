"""The work: what runs, in what order, with whose approval."""
