"""Damaged files and what becomes of them: a few in the suite, thousands in benchmarks/fuzz.py.

`damage` spoils bytes, PNG chunks and headers, `typed` JSON and text, `kinds` holds what is spoilt
and the functions of the commands that read it, `judge` tells a refusal from a fault.
"""
