"""Backbones: find, check and load their weights; count their parameters."""
