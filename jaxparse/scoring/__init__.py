"""Masks against masks, in numpy: counts of pixels, figures, tables."""
