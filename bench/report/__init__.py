"""The HTML report: a page with the boards of all runs, and a page for each run."""
