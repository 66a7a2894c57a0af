"""Statistics on arrays: bootstrap intervals, paired tests, significance groups, curves."""
