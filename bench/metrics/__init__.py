"""Scores of predicted masks: one family a file, raw counts per image first, scores from counts."""

METRICS_VERSION = 1
"""Raised whenever a count or a score changes its value for the same masks."""
