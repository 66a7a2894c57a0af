"""Scores of records, comparable runs, comparisons and rankings."""
