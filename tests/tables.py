"""Tables of any number of classes."""

from jaxparse.classes import Classes, parse_classes

COUNTS = (2, 11, 19, 150)


def numbered(count: int) -> Classes:
    """Classes c0, c1, …, of which a mirror image exchanges the first two."""
    names = [f"c{index}" for index in range(count)]
    data = {"names": names, "pairs": [names[:2]], "weights": {names[-1]: 3}}
    return parse_classes(data, f"numbered{count}", "numbered.json")
