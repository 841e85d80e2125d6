"""Measurements against what a user would pick instead; each module is run with `python -m`."""
