"""Figures beside the same work done by hand: `make bench`."""
