"""Exact functions under the layers, and what makes them fast on CPUs; see README.md."""
