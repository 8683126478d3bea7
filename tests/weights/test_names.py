import numpy as np
import pytest

from jaxparse.models import BACKBONES
from jaxparse.weights.names import (
    NAMINGS,
    TIMM_WEIGHTS,
    from_unfold_order,
    recognise,
    rename,
    rename_back,
    timm_name,
    to_unfold_order,
)
from tests import foreign, reference


@pytest.mark.parametrize(
    "name, full",
    [
        ("resnet50", "resnet50.a1_in1k"),
        ("resnet50.tv2_in1k", "resnet50.tv2_in1k"),
        ("timm/resnet101c.gluon_in1k", "resnet101c.gluon_in1k"),
        ("swin_base_patch4_window7_224", "swin_base_patch4_window7_224.ms_in1k"),
        ("swin_base_patch4_window7_224.ms_in22k", "swin_base_patch4_window7_224.ms_in22k"),
        ("swin_tiny_patch4_window7_224.pth", None),
        ("resnet50.safetensors", None),
        ("resnet50d", None),
        ("weights/resnet50", None),
    ],
)
def test_names_of_timm(name: str, full: str | None) -> None:
    assert timm_name(name) == full


def test_every_backbone_but_nano_has_weights() -> None:
    # BACKBONES holds the networks of the package, without that of the tests.
    assert TIMM_WEIGHTS.keys() == set(BACKBONES) - {"swin_nano", "mini"}


@pytest.mark.parametrize(
    "make, name",
    [
        (foreign.mmseg, "mmsegmentation Swin segmentor"),
        (lambda: reference.SHAPES["mmseg_psanet_r101"], "mmsegmentation ResNetV1c segmentor"),
        (foreign.mmseg_plain_resnet, "mmsegmentation ResNet segmentor"),
        (foreign.timm, "timm ImageNet Swin"),
        (foreign.microsoft, "Microsoft ImageNet Swin"),
        (foreign.timm_resnet50, "timm ImageNet ResNet"),
        (lambda: reference.SHAPES["timm_resnet101_v1c"], "timm ImageNet ResNet-C"),
        (foreign.openmmlab, "OpenMMLab ImageNet ResNetV1c"),
    ],
)
def test_each_kind_is_recognised_and_renamed_back(make: object, name: str) -> None:
    keys = make()
    source = recognise("f", keys)
    assert source.name == name
    matching = [s for s in NAMINGS if all(marker in keys for marker in s.markers)]
    assert matching == [source]
    shapes = {key: np.shape(v) if isinstance(v, np.ndarray) else v for key, v in keys.items()}
    for key, shape in shapes.items():
        array = np.empty(shape, bool)
        back, its_array = rename_back(source, *rename(source, key, array))
        assert (back, its_array.shape) == (key, array.shape)


@pytest.mark.parametrize(
    "file, key, ours",
    [
        ("mmseg_swin_t", "backbone.stages.1.downsample.reduction.weight",
         "backbone.layers.2.downsample.reduction.kernel"),
        ("mmseg_swin_t", "backbone.stages.3.blocks.0.ffn.layers.0.0.bias",
         "backbone.layers.3.blocks.0.mlp.fc1.bias"),
        ("mmseg_swin_t", "backbone.stages.0.blocks.1.attn.w_msa.qkv.weight",
         "backbone.layers.0.blocks.1.attn.qkv.kernel"),
        ("mmseg_swin_t", "decode_head.psp_modules.3.1.bn.running_var",
         "decode_head.psp_modules.3.bn.var"),
        ("mmseg_psanet_r50", "backbone.stem.4.weight", "backbone.stem.1.bn.scale"),
        ("mmseg_deeplabv3plus_r50", "decode_head.image_pool.1.conv.weight",
         "decode_head.image_pool.conv.kernel"),
        ("timm_resnet50_v1c", "conv1.3.weight", "backbone.stem.1.conv.kernel"),
        ("timm_resnet50_v1c", "bn1.running_mean", "backbone.stem.2.bn.mean"),
        ("timm_resnet50_v1c", "layer1.0.conv1.weight", "backbone.layer1.0.conv1.kernel"),
        ("timm_resnet50", "conv1.weight", "backbone.stem.0.conv.kernel"),
        ("timm_resnet50", "bn1.weight", "backbone.stem.0.bn.scale"),
    ],
)  # fmt: skip
def test_names(file: str, key: str, ours: str) -> None:
    shapes = reference.SHAPES[file]
    assert rename(recognise("f", shapes), key, np.empty(shapes[key]))[0] == ours


def test_order_of_patch_merging() -> None:
    # Two channels a and b of the neighbours (row, column).
    unfolded = np.array(["a00", "a01", "a10", "a11", "b00", "b01", "b10", "b11"])
    column_first = ["a00", "b00", "a10", "b10", "a01", "b01", "a11", "b11"]
    assert from_unfold_order(unfolded).tolist() == column_first
    matrix = np.arange(24).reshape(8, 3)
    assert from_unfold_order(matrix)[1].tolist() == matrix[4].tolist()
    np.testing.assert_array_equal(to_unfold_order(from_unfold_order(matrix)), matrix)
