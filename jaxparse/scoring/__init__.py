"""Predicted masks compared with labels, in numpy: pixel counts, scores, tables; submissions."""
