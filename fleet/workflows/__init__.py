"""Deterministic code: the only room that imports `temporalio.workflow`."""
