"""jaxparse: face parsing in JAX, one of 19 classes for every pixel of a face picture."""
