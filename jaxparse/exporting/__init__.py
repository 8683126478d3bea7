"""A trained network as a file for other runtimes: the whole path from picture to mask."""
