"""Scenarios: one file each; the file's name is the scenario's.

`fleet load ls` lists them, `docs/load.md` says how to write one.
"""
