import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.config import save_config
from jaxparse.data.images import write_image
from jaxparse.data.masks import write_mask
from jaxparse.report import __main__ as report_module
from jaxparse.weights.files import BEST_WEIGHTS
from tests.conftest import Nano
from tests.logged import make_run
from tests.report import known

EVALUATIONS = {10: 0.25, 20: 0.5, 30: 0.375}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(known.COUNT):
        file = f"{known.name(index)}.png"
        write_image(folder / "val" / "images" / file, known.face(index)[0])
        write_mask(folder / "val" / "masks" / file, known.mask_on_disk(index))
    return folder


@pytest.fixture(scope="session")
def run(nano: Nano, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the mini network and three evaluations."""
    rows = [{"step": step, "train/loss": 9 / step} for step in range(5, 35, 5)]
    for step, value in EVALUATIONS.items():
        classes = {f"IoU/{name}": value / 2 for name in CELEBAMASK.names if name != "hat"}
        rows += [{"step": step} | classes, {"step": step, "val/mIoU": value, "val/aAcc": 0.5}]
    folder = make_run(tmp_path_factory.mktemp("runs") / "a <b> run", rows)
    save_config(replace(nano.config, data_dir=str(data_dir), workdir="<script>"), folder)
    shutil.copy(nano.weights, folder / BEST_WEIGHTS)
    return folder


@pytest.fixture(scope="session")
def page(run: Path) -> str:
    """The page on that run, with the predictions of the stub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "Parser", known.StubParser)
        report_module.report(str(run), pictures=3)
    return (run / "report.html").read_text(encoding="utf-8")
