"""Fairness: tables, intervals, tests and plots over the predictions of all classifiers."""
