"""Weights on disk: our files, and those of other packages."""
