"""The results folder: files written atomically, locks, records and bundles."""
