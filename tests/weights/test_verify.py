import sys
from dataclasses import replace

import numpy as np
import pytest
from jaxparse.weights.verify import stage_maps, timm_stage_maps, verify_backbone

from jaxparse.config import Config, load_experiment
from jaxparse.convert_weights import convert
from jaxparse.weights import verify
from tests import reference
from tests.refusal import refuses

NANO = load_experiment("swin_nano")


def backbone(name: str) -> tuple[dict[str, np.ndarray], Config]:
    """timm's weights by the rule, and a network that takes them."""
    config = replace(load_experiment("swin_t"), backbone=name)
    return convert("f", reference.state_dict(f"timm_{name}"), config).arrays, config


@pytest.mark.parametrize("name", ["swin_t", "swin_b", "resnet50", "resnet50_v1c", "resnet101_v1c"])
def test_backbone_from_timm_gives_timms_maps(name: str) -> None:
    for stage, x in enumerate(stage_maps(*backbone(name), reference.image(1, 224, 224))):
        key = f"{name}/timm/stage{stage}"
        if f"{key}_mean/step" in reference.OUTPUTS:
            key, x = f"{key}_mean", x.mean(-1)
        assert reference.sample_error(key, x) < 1e-5, key


def test_table_and_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = [np.full((1, 8 >> i, 8 >> i, 4 << i), i + 1.0) for i in range(4)]
    monkeypatch.setattr(verify, "stage_maps", lambda *_: maps)
    monkeypatch.setattr(verify, "timm_stage_maps", lambda *_: [x * (1 + 2**-13) for x in maps])
    table = verify_backbone("f", {}, NANO)
    assert [list(column.cells) for column in table.columns] == [
        ["0", "1", "2", "3"],
        ["8×8×4", "4×4×8", "2×2×16", "1×1×32"],
        ["1", "2", "3", "4"],
        ["0.00012", "0.00024", "0.00037", "0.00049"],
    ]
    for factor in (1.01, np.nan):
        theirs = [*maps[:3], maps[3] * factor]
        monkeypatch.setattr(verify, "timm_stage_maps", lambda *_, theirs=theirs: theirs)
        with refuses("3"):
            verify_backbone("f", {}, NANO)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm and PyTorch .* pip install 'jaxparse\[veri"):
        timm_stage_maps({}, NANO, np.zeros((1, 224, 224, 3), np.float32))


@pytest.mark.parametrize("name", ["swin_t", "resnet50", "resnet50_v1c"])
def test_beside_timm(name: str) -> None:
    pytest.importorskip("timm", reason="timm is not installed; it is the other side")
    cells = list(verify_backbone("f", *backbone(name)).columns[3].cells)
    assert max(map(float, cells)) < 1e-3
