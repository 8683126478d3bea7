"""The files of zllrunning, facexlib and yakhyo, and the ImageNet backbones of their networks."""

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK
from jaxparse.config import load_experiment
from jaxparse.weights.conversion import convert
from jaxparse.weights.names import NAMINGS, mmseg_naming, recognise
from jaxparse.weights.naming import rename, rename_back
from tests import reference
from tests.foreign import StateDict
from tests.refusal import refuses

FILES = {  # name of the kind, and the backbone
    "zllrunning_bisenet_r18": ("zllrunning or facexlib BiSeNet", "resnet18"),
    "yakhyo_bisenet_r18": ("yakhyo BiSeNet", "resnet18"),
    "yakhyo_bisenet_r34": ("yakhyo BiSeNet", "resnet34"),
}
# Of zllrunning's classes; left and right are exchanged in neither.
THEIRS = "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip"
THEIRS = f"{THEIRS} neck neck_l cloth hair hat".split()
FULL_NAMES = {"eye_g": "eye_glasses", "ear_r": "earring", "neck_l": "necklace"}
FULL_NAMES |= {"u_lip": "upper_lip", "l_lip": "lower_lip"}
SIDES = {"l": "left", "r": "right"}


def imagenet(file: str) -> StateDict:
    """The backbone in yakhyo's file, with ImageNet's classifier: the names of torchvision."""
    prefix = "fpn.backbone."
    arrays = reference.state_dict(file).items()
    return {key.removeprefix(prefix): array for key, array in arrays if key.startswith(prefix)}


@pytest.mark.parametrize("file", FILES)
def test_each_file_is_recognised_and_renamed_back(file: str) -> None:
    shapes = reference.SHAPES[file]
    [naming] = [n for n in NAMINGS if all(marker in shapes for marker in n.markers)]
    assert naming.name == FILES[file][0]
    for key, shape in shapes.items():
        back, array = rename_back(naming, *rename(naming, key, np.empty(shape, bool)))
        assert (back, list(array.shape)) == (key, shape)


@pytest.mark.parametrize(
    "file, key, ours",
    [
        ("zllrunning_bisenet_r18", "cp.resnet.conv1.weight", "backbone.stem.0.conv.kernel"),
        ("zllrunning_bisenet_r18", "cp.conv_avg.bn.running_var", "decode_head.conv_avg.bn.var"),
        ("zllrunning_bisenet_r18", "ffm.conv1.weight", "decode_head.ffm.conv1.kernel"),
        ("zllrunning_bisenet_r18", "conv_out.conv_out.weight",
         "decode_head.conv_out.conv_seg.kernel"),
        ("zllrunning_bisenet_r18", "conv_out16.conv.conv.weight",
         "decode_head.conv_out16.conv.conv.kernel"),
        ("yakhyo_bisenet_r34", "fpn.backbone.layer3.5.bn2.bias", "backbone.layer3.5.bn2.bias"),
        ("yakhyo_bisenet_r34", "fpn.conv_head32.norm.weight", "decode_head.conv_head32.bn.scale"),
        ("yakhyo_bisenet_r34", "fpn.arm16.attention.0.weight",
         "decode_head.arm16.conv_atten.kernel"),
        ("yakhyo_bisenet_r34", "fpn.arm16.attention.1.bias", "decode_head.arm16.bn_atten.bias"),
        ("yakhyo_bisenet_r34", "ffm.conv_block.conv.weight",
         "decode_head.ffm.convblk.conv.kernel"),
        ("yakhyo_bisenet_r34", "conv_out32.conv.weight", "decode_head.conv_out32.conv_seg.kernel"),
    ],
)  # fmt: skip
def test_names(file: str, key: str, ours: str) -> None:
    shapes = reference.SHAPES[file]
    assert rename(recognise(file, shapes), key, np.empty(shapes[key]))[0] == ours


@pytest.mark.parametrize("file", FILES)
def test_the_network_is_told_by_names_and_shapes(file: str) -> None:
    state_dict = reference.state_dict(file)
    conversion = convert(file, state_dict)
    config = conversion.config
    assert (config.backbone, config.head, config.align_corners) == (FILES[file][1], "bisenet", True)
    unused = {"fpn.backbone.fc.weight", "fpn.backbone.fc.bias"} & state_dict.keys()
    counters = {key for key in state_dict if key.endswith("num_batches_tracked")}
    assert set(conversion.dropped) == unused | counters
    assert bool(unused) == file.startswith("yakhyo")
    # The experiment has the same network, so that its weights can be trained on.
    same = convert(file, state_dict, load_experiment(f"bisenet_{file[-3:]}"))
    assert same.arrays.keys() == conversion.arrays.keys()


def test_all_three_classifiers_take_the_official_order() -> None:
    state_dict = reference.state_dict("zllrunning_bisenet_r18")
    arrays = convert("f", state_dict).arrays
    for output in ("conv_out", "conv_out16", "conv_out32"):
        theirs = state_dict[f"{output}.conv_out.weight"][:, :, 0, 0]
        ours = arrays[f"decode_head.{output}.conv_seg.kernel"][0, 0]
        for row, short in enumerate(THEIRS):
            side, _, part = short.partition("_")
            name = FULL_NAMES.get(short, f"{SIDES.get(side)}_{part}" if part else short)
            np.testing.assert_array_equal(
                ours[:, CELEBAMASK.names.index(name)], theirs[row], err_msg=short
            )


def test_a_file_of_another_size_is_refused() -> None:
    state_dict = reference.state_dict("zllrunning_bisenet_r18")
    with refuses("f.pth", "resnet18 + bisenet", "resnet34 + bisenet"):
        convert("f.pth", state_dict, load_experiment("bisenet_r34"))


@pytest.mark.parametrize("size", ["18", "34"])
def test_imagenet_files_give_the_backbone(size: str) -> None:
    state_dict = imagenet(f"yakhyo_bisenet_r{size}")
    assert "fc.weight" in state_dict
    conversion = convert("f", state_dict, load_experiment(f"bisenet_r{size}"))
    assert (conversion.naming, conversion.fresh[0]) == ("timm ImageNet ResNet", "decode_head.")
    whole = convert("f", reference.state_dict(f"yakhyo_bisenet_r{size}")).arrays
    assert conversion.arrays.keys() == {name for name in whole if name.startswith("backbone.")}
    other = {"18": "34", "34": "18"}[size]
    with refuses("f", f"holds resnet{size} ", f"not resnet{other};", f"resnet{other}.tv_in1k"):
        convert("f", state_dict, load_experiment(f"bisenet_r{other}"))


def test_a_backbone_of_unknown_depth() -> None:
    state_dict = imagenet("yakhyo_bisenet_r18")
    deeper = {k.replace("layer2.1", "layer2.2"): v for k, v in state_dict.items() if "r2.1" in k}
    with refuses("f", "unknown size", "depths 2 3 2 2, basic blocks"):
        convert("f", state_dict | deeper, load_experiment("bisenet_r18"))


def test_mmsegmentation_has_no_such_network() -> None:
    with refuses("spatial path", "--to mmseg"):
        mmseg_naming(load_experiment("bisenet_r18"))
