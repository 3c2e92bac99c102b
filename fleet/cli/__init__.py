"""`fleet …`: thin commands over the rooms below. Modules are imported by the command that needs them."""
