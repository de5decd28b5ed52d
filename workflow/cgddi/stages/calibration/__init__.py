"""Limits for the check of samples, from a run's own real photos."""
