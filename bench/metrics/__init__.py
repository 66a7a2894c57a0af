"""Metrics, one family per file: counts of one image, and scores computed from counts."""

METRICS_VERSION = 1
"""Increase it with every change of a count or a score of the same masks."""
