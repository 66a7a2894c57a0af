"""Train a head, predict with it, adapt at test time."""
