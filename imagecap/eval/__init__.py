"""Evaluation: floors, confidence intervals, comparisons, slices, and how captions behave."""
