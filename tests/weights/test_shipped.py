"""The network that comes with the package."""

import jax
from safetensors import safe_open

from jaxparse import Parser
from jaxparse.classes import NUM_CLASSES
from jaxparse.config import load_experiment
from jaxparse.data.drawn.picture import draw_face
from jaxparse.parsing.solution import PARAMETER_LIMIT
from jaxparse.weights.files import NETWORK_FIELDS, SHIPPED, load_network


def test_it_is_that_of_its_experiment_and_small() -> None:
    config, params, _ = load_network(SHIPPED)
    expected = load_experiment("tiny")
    for field in (*NETWORK_FIELDS, "image_size"):
        assert getattr(config, field) == getattr(expected, field)
    assert sum(x.size for x in jax.tree.leaves(params)) < PARAMETER_LIMIT
    assert SHIPPED.stat().st_size <= 4e6
    with safe_open(SHIPPED, framework="numpy") as file:
        assert all(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118


def test_it_is_what_a_parser_loads() -> None:
    image, label = draw_face(0, 0, 256)
    parsing = Parser.load()(image)
    assert parsing.mask.shape == (256, 256)
    # It has seen photographs only; a drawn face's hair, skin and background are found all the same.
    agree = parsing.mask == label
    assert agree.mean() > 1 / NUM_CLASSES
