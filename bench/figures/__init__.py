"""Figures of a publication: masks, features, a corpus and what pretraining restores."""
