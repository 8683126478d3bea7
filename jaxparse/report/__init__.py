"""One page on a network: `python -m jaxparse.report`."""
