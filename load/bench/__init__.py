"""Measured side by side in one run: ratios hold where absolute figures drift."""
