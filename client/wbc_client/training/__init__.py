"""Training on a clinic's own cells, in every way that a plan may ask for."""
