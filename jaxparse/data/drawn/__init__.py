"""Drawn faces with exact masks."""
