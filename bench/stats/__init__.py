"""Statistics on arrays: bootstrap intervals, paired tests, decisions, curves."""
