"""The files of SegFace, FaRL and ParseNet."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxparse.classes import CELEBAMASK, load_classes
from jaxparse.config import Config, load_experiment
from jaxparse.models import split_model
from jaxparse.weights.bisenet_names import PARSENET
from jaxparse.weights.conversion import (
    convert,
    network_of,
    reordered,
    require_classes,
    require_constants,
    require_preprocessing,
)
from jaxparse.weights.farl_names import CLIP_MEAN, CLIP_STD, FARL
from jaxparse.weights.files import flatten
from jaxparse.weights.foreign import read_checkpoint
from jaxparse.weights.names import NAMINGS, mmseg_naming, recognise, require_network
from jaxparse.weights.naming import regroup, rename, rename_back
from jaxparse.weights.segface_names import SEGFACE
from tests import reference
from tests.foreign import NEEDS_TORCH, StateDict
from tests.refusal import refuses

FILES = {"segface_swin_b": SEGFACE, "farl_vit_b16": FARL, "facexlib_parsenet": PARSENET}
EXPERIMENTS = {"facexlib_parsenet": "parsenet"}  # of the same network, where named otherwise
# The class that each token of SegFace learnt.
LEARNT = {
    "background": "background",
    "face": "skin",
    "nose": "nose",
    "glass": "eye_glasses",
    "righteye": "left_eye",
    "lefteye": "right_eye",
    "rightbro": "left_brow",
    "leftbro": "right_brow",
    "rightear": "left_ear",
    "leftear": "right_ear",
    "innermouth": "mouth",
    "upperlip": "upper_lip",
    "lowerlip": "lower_lip",
    "hair": "hair",
    "hat": "hat",
    "earring": "earring",
    "necklace": "necklace",
    "neck": "neck",
    "cloth": "cloth",
}


def abstract(file: str) -> StateDict:
    """The arrays of the file without their numbers: all the same one."""
    shapes = reference.SHAPES[file].items()
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes}


def by_our_names(file: str) -> StateDict:
    """Those that are used."""
    naming, arrays = FILES[file], abstract(file)
    dropped = {"backbone.1.weight", "backbone.1.bias", "backbone.image_mean", "backbone.image_std"}
    dropped |= {"out_img_conv.conv2d.weight", "out_img_conv.conv2d.bias"}
    dropped |= {f"backbone.visual.{name}" for name in ("ln_post.weight", "ln_post.bias", "proj")}
    used = (key for key in arrays if key not in dropped and not key.endswith(reference.BUFFERS))
    return regroup(dict(rename(naming, key, arrays[key]) for key in used), *naming.regrouped)


@pytest.mark.parametrize("file", FILES)
def test_each_file_is_recognised_and_renamed_back(file: str) -> None:
    shapes = reference.SHAPES[file]
    assert [n for n in NAMINGS if all(marker in shapes for marker in n.markers)] == [FILES[file]]
    for key, shape in shapes.items():
        back, array = rename_back(FILES[file], *rename(FILES[file], key, np.empty(shape, bool)))
        assert (back, list(array.shape)) == (key, shape)


@pytest.mark.parametrize(
    "file, key, ours",
    [
        ("segface_swin_b", "backbone.0.0.2.weight", "backbone.patch_embed.norm.scale"),
        ("segface_swin_b", "backbone.0.5.11.mlp.3.bias",
         "backbone.layers.2.blocks.11.mlp.fc2.bias"),
        ("segface_swin_b", "backbone.0.6.reduction.weight",
         "backbone.layers.3.downsample.reduction.kernel"),
        ("segface_swin_b", "face_decoder.transformer.final_attn_token_to_image.v_proj.bias",
         "decode_head.transformer.final_attn_token_to_image.v_proj.bias"),
        ("segface_swin_b", "face_decoder.output_upscaling.3.weight",
         "decode_head.upscaling.conv2.kernel"),
        ("segface_swin_b", "linear_c.3.proj.weight", "decode_head.linear_c.3.kernel"),
        ("segface_swin_b", "face_decoder.hat_token.weight", "decode_head.hat_token"),
        ("segface_swin_b", "pe_layer.positional_encoding_gaussian_matrix",
         "decode_head.position_matrix"),
        ("farl_vit_b16", "backbone.visual.transformer.resblocks.10.attn.in_proj_weight",
         "backbone.blocks.10.attn.qkv.kernel"),
        ("farl_vit_b16", "backbone.visual.positional_embedding", "backbone.pos_embed"),
        ("farl_vit_b16", "backbone.fpns.0.1.running_var", "backbone.fpns.0.bn.var"),
        ("farl_vit_b16", "head.head.psp_modules.2.1.conv.weight",
         "decode_head.psp_modules.2.conv.kernel"),
        ("facexlib_parsenet", "encoder.0.conv2d.bias", "backbone.encoder.0.conv.bias"),
        ("facexlib_parsenet", "body.7.conv2.norm.norm.running_mean",
         "backbone.body.7.conv2.bn.mean"),
        ("facexlib_parsenet", "decoder.3.shortcut_func.conv2d.weight",
         "decode_head.decoder.3.shortcut_func.conv.kernel"),
        ("facexlib_parsenet", "out_mask_conv.conv2d.weight", "decode_head.conv_seg.kernel"),
    ],
)  # fmt: skip
def test_names(file: str, key: str, ours: str) -> None:
    shapes = reference.SHAPES[file]
    assert rename(recognise(file, shapes), key, np.empty(shapes[key]))[0] == ours


@pytest.mark.parametrize("file", FILES)
def test_the_network_is_told_by_names_and_shapes(file: str) -> None:
    arrays, exp = by_our_names(file), load_experiment(EXPERIMENTS.get(file, file))
    fields = network_of("f", arrays)
    assert fields == {name: getattr(exp, name) for name in fields} and len(fields) == 4
    require_network("f", arrays, exp)
    needs = dict(FILES[file].fields)
    require_preprocessing("f", needs, exp)
    _, *trees = split_model(exp)
    needed = flatten(trees[0]) | flatten(trees[1])
    assert {k: v.shape for k, v in arrays.items()} == {k: v.shape for k, v in needed.items()}
    with refuses("f", *needs, "--exp"):
        require_preprocessing("f", needs, Config())


def test_tokens_are_joined_in_the_official_order() -> None:
    tokens = {
        f"face_decoder.{token}_token.weight": np.full((1, 3), CELEBAMASK.names.index(name))
        for token, name in LEARNT.items()
    }
    renamed = dict(rename(SEGFACE, key, array) for key, array in tokens.items())
    arrays = reordered(
        "f", regroup(renamed, *SEGFACE.regrouped), load_classes(SEGFACE.classes), CELEBAMASK
    )
    assert arrays.keys() == {"decode_head.class_tokens"}
    numbers = np.arange(19)[:, None].repeat(3, 1)
    np.testing.assert_array_equal(arrays["decode_head.class_tokens"], numbers)


def test_another_number_of_classes() -> None:
    with refuses("f", "11 classes", "--fresh-classifier"):
        require_classes("f", {"decode_head.class_tokens": np.zeros((11, 256))}, CELEBAMASK)


def test_pictures_that_are_normalised_otherwise_are_refused() -> None:
    held = {
        "backbone.image_mean": np.float32(CLIP_MEAN),
        "backbone.image_std": np.float32(CLIP_STD),
    }
    require_constants("f.pt", {k: v.reshape(1, 3, 1, 1) for k, v in held.items()}, FARL)
    require_constants("f.pt", {}, FARL)
    held["backbone.image_std"] = np.float32([0.229, 0.224, 0.225])
    with refuses("f.pt", "backbone.image_std", "0.229", "0.26862954"):
        require_constants("f.pt", held, FARL)


@pytest.mark.full
def test_segface_is_converted_whole(tmp_path: Path) -> None:
    """The pickle of its training also holds a Counter and the state of the optimiser."""
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    state_dict = reference.state_dict("segface_swin_b")
    checkpoint = {
        "epoch": 299,
        "state_dict_backbone": {k: torch.from_numpy(v) for k, v in state_dict.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
        "scheduler": {"milestones": Counter([80, 200])},
    }
    torch.save(checkpoint, tmp_path / "model_299.pt")
    conversion = convert("f", read_checkpoint(tmp_path / "model_299.pt").arrays)
    assert (conversion.naming, conversion.classes.name) == ("SegFace Swin-B", "facer")
    assert sum(x.size for x in conversion.arrays.values()) == 91_007_800 - 2_048 + 256
    ours = conversion.arrays["decode_head.class_tokens"]
    for token, name in LEARNT.items():
        theirs = state_dict[f"face_decoder.{token}_token.weight"][0]
        np.testing.assert_array_equal(ours[CELEBAMASK.names.index(name)], theirs)
    fresh = convert("f", state_dict, fresh_classifier=True)
    assert fresh.fresh == ("decode_head.class_tokens",)


@pytest.mark.parametrize("file", FILES)
def test_mmsegmentation_has_no_such_network(file: str) -> None:
    with refuses("mmsegmentation has no", "--to mmseg"):
        mmseg_naming(load_experiment(EXPERIMENTS.get(file, file)))


def test_an_imagenet_swin_fits_torchvisions() -> None:
    arrays = {k: v for k, v in by_our_names("segface_swin_b").items() if k.startswith("backbone.")}
    for exp in ("segface_swin_b", "swin_b"):
        require_network("f", arrays, load_experiment(exp))
