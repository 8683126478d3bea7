"""One page on a run: `python -m jaxparse.report`."""
