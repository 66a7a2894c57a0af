"""Pretraining by masked diffusion: tiles in, the averaged weights of a backbone's network out."""
