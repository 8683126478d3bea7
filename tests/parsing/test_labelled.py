from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse.data.sources import make_source
from jaxparse.parsing.labelled import evaluate_pictures
from jaxparse.parsing.parser import Parser
from jaxparse.scoring.counts import count
from tests.conftest import Nano
from tests.faces import SIZES, write_faces
from tests.parsed import share_program
from tests.refusal import refuses


def test_pictures_come_in_order_with_their_masks_and_counts(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_program(monkeypatch, nano)
    config = replace(nano.config, data_dir=str(write_faces(tmp_path)))
    source = make_source(config, "val")
    parser = Parser(config, nano.params, nano.batch_stats)
    evaluated = list(evaluate_pictures(parser, source, num_workers=2))
    assert [parsing.mask.shape for parsing, _ in evaluated] == SIZES
    for index, (parsing, counts) in enumerate(evaluated):
        np.testing.assert_array_equal(parsing.label, source.read(index)[1])
        expected = count(parsing.label, parsing.mask, 19)
        np.testing.assert_array_equal(counts.confusion, expected.confusion)
        np.testing.assert_array_equal(counts.boundary, expected.boundary)
    some = list(evaluate_pictures(parser, source, num_workers=1, indices=[4, 1]))
    for (parsing, counts), index in zip(some, [4, 1], strict=True):
        np.testing.assert_array_equal(parsing.label, source.read(index)[1])
        np.testing.assert_array_equal(counts.confusion, evaluated[index][1].confusion)

    broken = source.pairs[2].image
    broken.write_bytes(broken.read_bytes()[:100])
    with refuses(broken):
        list(evaluate_pictures(parser, source, num_workers=2))
