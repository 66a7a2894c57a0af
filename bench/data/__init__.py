"""Data sets: manifest, decoding, finding, creating and downloading."""
