"""One file per run: a lab note that ends in `config = Config(...)`."""
