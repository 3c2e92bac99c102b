"""The trial: offered load, injected faults, a verdict. Nothing imports this room."""
