"""The store as pages that open from the disk: a board of all runs, and a page for each of them."""
