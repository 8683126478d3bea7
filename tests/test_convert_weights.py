import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxparse import convert_weights
from jaxparse.classes import CELEBAMASK, load_classes
from jaxparse.config import Config, load_experiment
from jaxparse.convert_weights import convert_file, default_output
from jaxparse.models import split_model
from jaxparse.weights.conversion import convert, start_weights
from jaxparse.weights.files import flatten, load_weights, network_fields, read_weights
from jaxparse.weights.find import load_network
from tests import foreign
from tests.foreign import StateDict, require_equal, write
from tests.refusal import refuses
from tests.torch_files import write_zip

NANO = load_experiment("swin_nano")
DEEPLAB = load_experiment("deeplabv3plus_r50_20k")
HEADS = ("decode_head.", "auxiliary_head.")
SMALL = """from jaxparse.config import Config
config = Config(backbone='swin_nano', head_channels=64, auxiliary_channels=32, init_weights='{}')
"""
FRESH = (*(f"backbone.norm{i}." for i in range(4)), *HEADS)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "make, wrapper, name, fresh, command",
    [
        (foreign.mmseg, "state_dict", "mmsegmentation Swin segmentor", (), "evaluate --weights"),
        (foreign.timm, None, "timm ImageNet Swin", FRESH, "train --init-weights"),
        (foreign.microsoft, "model", "Microsoft ImageNet Swin", FRESH, "train --init-weights"),
    ],
)
def test_file_is_converted(
    make: Callable[[], StateDict],
    wrapper: str | None,
    name: str,
    fresh: tuple[str, ...],
    command: str,
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = write(tmp_path / f"theirs{suffix}", make(), wrapper)
    output = tmp_path / "out" / "ours.safetensors"
    convert_file("swin_nano", str(checkpoint), output)
    arrays, metadata = read_weights(output)
    require_equal(arrays, convert(checkpoint, make(), NANO).arrays)
    assert metadata["source"] == f"{name}, theirs{suffix}"
    assert metadata["fresh"] == ",".join(fresh)
    assert network_fields(output).get("classes", CELEBAMASK) == CELEBAMASK
    assert '"backbone": "swin_nano"' in metadata["network"]
    printed = capsys.readouterr().out
    assert f"{checkpoint}: {name}\n" in printed
    assert f"  python -m jaxparse.{command} {output} --exp swin_nano" in printed


def test_classifiers_in_another_order_are_brought_into_that_of_celebamask(tmp_path: Path) -> None:
    """Class names in zllrunning's order, as weights, come out in celebamask's."""
    checkpoint = write(tmp_path / "theirs.safetensors", foreign.mmseg())
    orders = CELEBAMASK, load_classes("zllrunning")
    for order in orders:
        output = tmp_path / f"{order}.safetensors"
        convert_file("swin_nano", str(checkpoint), output, classes=order)
        assert network_fields(output)["classes"] == CELEBAMASK
    theirs, ours = (read_weights(tmp_path / f"{order}.safetensors")[0] for order in orders)
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        if "conv_seg" not in name:
            np.testing.assert_array_equal(ours[name], array)
            continue
        for index, label in enumerate(orders[1].names):
            np.testing.assert_array_equal(
                ours[name][..., CELEBAMASK.names.index(label)], array[..., index]
            )


def test_the_moving_average_is_taken_with_a_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = foreign.mmseg()
    average = {name: np.array(array + 1, array.dtype) for name, array in plain.items()}
    path = write_zip(tmp_path / "f.pth", {"params": plain, "params_ema": average})
    output = tmp_path / "ours.safetensors"
    for ema, expected, line in (
        (False, plain, "weights: the plain ones (params); --ema takes"),
        (True, average, "weights: the moving average (params_ema), not params"),
    ):
        convert_file("swin_nano", str(path), output, ema=ema)
        arrays, metadata = read_weights(output)
        require_equal(arrays, convert(path, expected, NANO).arrays)
        assert metadata["source"].endswith(", moving average") == ema
        assert line in capsys.readouterr().out


def test_table_counts_every_key() -> None:
    state_dict = foreign.mmseg()
    conversion = convert(Path("f"), state_dict, NANO)
    assert len(conversion.arrays) + len(conversion.dropped) == len(state_dict)
    columns = [
        list(map(str, column.cells))
        for column in convert_weights.conversion_table(conversion).columns
    ]
    assert columns == [
        ["backbone", "decode_head", "auxiliary_head"],
        ["125", "62", "7"],
        ["2,282,926", "637,139", "37,619"],
        ["8 relative_position_index", "12 num_batches_tracked", "1 num_batches_tracked"],
        ["", "", ""],
    ]
    table = convert_weights.conversion_table(convert(Path("f"), foreign.microsoft(), NANO))
    dropped = "norm.weight norm.bias head.weight head.bias relative_position_index attn_mask"
    assert str(next(table.columns[3].cells)).split("\n") == [f"1 {key}" for key in dropped.split()]
    assert list(map(str, table.columns[4].cells)) == [
        "norm0.\nnorm1.\nnorm2.\nnorm3.",
        "all",
        "all",
    ]


def test_converted_backbone_loads_and_leaves_the_rest(tmp_path: Path) -> None:
    output = tmp_path / "ours.safetensors"
    checkpoint = write(tmp_path / "theirs.safetensors", foreign.timm())
    convert_file("swin_nano", str(checkpoint), output)
    _, params, batch_stats = split_model(NANO)
    with refuses(output, "--init-weights"):
        load_weights(output, NANO, params, batch_stats)
    loaded, stats = start_weights(output, NANO, params, batch_stats)
    kept = {name for name, array in flatten(loaded).items() if not isinstance(array, np.ndarray)}
    assert kept == {name for name in flatten(params) if name.startswith(FRESH)}
    assert stats == batch_stats


@pytest.mark.parametrize(
    "make, same, config",
    [
        (foreign.microsoft, foreign.timm, NANO),
        (foreign.openmmlab_swin, foreign.timm, NANO),
        (foreign.microsoft_upernet, foreign.mmseg, NANO),
        (foreign.openmmlab, foreign.timm_resnet50c, DEEPLAB),
        (foreign.nvidia_mit, foreign.hf_mit, load_experiment("segformer_b0")),
        (foreign.mmseg_mit, foreign.hf_mit, load_experiment("segformer_b0")),
    ],
)
def test_other_names_give_the_same_arrays(
    make: Callable[[], StateDict], same: Callable[[], StateDict], config: Config
) -> None:
    require_equal(convert("f", make(), config).arrays, convert("f", same(), config).arrays)


@pytest.mark.parametrize("exp", ["deeplabv3plus_r50_20k", "psanet_r50_80k"])
def test_backbone_serves_every_head(exp: str, tmp_path: Path) -> None:
    output = tmp_path / "ours.safetensors"
    checkpoint = write(tmp_path / "theirs.safetensors", foreign.openmmlab())
    convert_file("psanet_r50_80k", str(checkpoint), output)
    arrays, metadata = read_weights(output)
    assert metadata["network"] == '{"backbone": "resnet50_v1c"}'
    config = load_experiment(exp)
    _, *state = split_model(config)
    params, batch_stats = start_weights(output, config, *state)
    loaded = flatten(params) | flatten(batch_stats)
    assert {name for name in loaded if not name.startswith(HEADS)} == arrays.keys()
    np.testing.assert_array_equal(
        loaded["backbone.stem.2.bn.var"], arrays["backbone.stem.2.bn.var"]
    )


def test_strays_gaps_and_shapes_are_listed_together() -> None:
    state_dict = foreign.mmseg()
    state_dict["backbone.extra.weight"] = np.ones((2, 3), np.float32)
    del state_dict["decode_head.conv_seg.bias"]
    state_dict["auxiliary_head.conv_seg.weight"] = np.ones((150, 32, 1, 1), np.float32)
    faults = "missing decode_head.conv_seg.bias", "unknown backbone.extra.kernel"
    shapes = "auxiliary_head.conv_seg.kernel is (1, 1, 32, 150), not (1, 1, 32, 19)"
    with refuses("f.pth", *faults, shapes):
        convert("f.pth", state_dict, NANO)


def test_unknown_file() -> None:
    with refuses("f.pth", "accepted", "mmsegmentation Swin segmentor, "):
        convert("f.pth", {"conv1.weight": np.ones(3)}, NANO)


def test_two_names_for_one_parameter() -> None:
    state_dict = foreign.mmseg()
    state_dict["backbone.patch_embed.proj.bias"] = np.ones(32, np.float32)
    with refuses("f.pth", "backbone.patch_embed.proj.bias"):
        convert("f.pth", state_dict, NANO)


@pytest.mark.parametrize(
    "make, flag, init_weights, expected",
    [
        (foreign.mmseg, "--weights", "weights/start.safetensors", "weights/small.safetensors"),
        (foreign.timm, "--weights", "weights/start.safetensors", "weights/start.safetensors"),
        (foreign.timm, "--checkpoint", "none", "weights/small.safetensors"),
    ],
)
def test_command_line_and_default_output(
    make: Callable,
    flag: str,
    init_weights: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(SMALL.format(init_weights))
    write(Path("theirs.safetensors"), make())
    argv = f"convert_weights --exp small.py {flag} theirs.safetensors"
    monkeypatch.setattr(sys, "argv", argv.split())
    convert_weights.main()
    assert [str(path) for path in Path("weights").iterdir()] == [expected]


def test_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.safetensors", foreign.timm())
    before = path.read_bytes()
    with refuses("--output", path):
        convert_file("swin_nano", str(path), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("checkpoint", [None, "resnet50c.gluon_in1k"])
def test_timms_weights_by_name_become_what_the_experiment_starts_from(
    checkpoint: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = {"timm/resnet50c.gluon_in1k": foreign.timm_resnet50c()}
    foreign.offline_hub(tmp_path / "hub", monkeypatch, models)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # it is not needed
    convert_file("deeplabv3plus_r50_40k", checkpoint)
    arrays, metadata = read_weights(DEEPLAB.init_weights)
    require_equal(arrays, convert("f", foreign.timm_resnet50c(), DEEPLAB).arrays)
    assert metadata["source"] == "timm ImageNet ResNet-C, timm/resnet50c.gluon_in1k"
    assert "timm/resnet50c.gluon_in1k: timm ImageNet ResNet-C\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "exp, weights, words",
    [
        (
            "swin_b",
            None,
            ("timm/swin_base_patch4_window7_224.ms_in1k", "https://", "/model.safetensors")
            + ("jaxparse.convert_weights --exp swin_b --weights model.safetensors",),
        ),
        ("psanet_r50_80k", "resnet50.tv_in1k", ("timm/resnet50.tv_in1k", "accepted: ")),
        ("swin_nano", None, ("swin_nano", "--weights")),
        ("swin_t", "gone.pth", ("gone.pth", "--weights", "resnet50c")),
        ("swin_t", "resnet50.pth", ("resnet50.pth", "--weights")),
        ("swin_t", "resnet18", ("resnet18", "--weights")),
    ],
)
def test_weights_out_of_reach(
    exp: str,
    weights: str | None,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    foreign.offline_hub(tmp_path, monkeypatch, {"timm/resnet50.tv_in1k": {}})
    with refuses(*words):
        convert_file(exp, weights)


def test_the_network_is_told_by_names_and_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write(tmp_path / "theirs.safetensors", foreign.mmseg())
    convert_file(weights=str(checkpoint), output=tmp_path / "whole.safetensors", image_size=96)
    config, *_ = load_network(tmp_path / "whole.safetensors")
    fields = config.backbone, config.head, config.head_channels, config.auxiliary_channels
    assert fields == ("swin_nano", "upernet", 64, 32) and config.image_size == 96
    printed = capsys.readouterr().out
    assert "swin_nano + upernet" in printed and "predict --weights" in printed
    backbone = write(tmp_path / "backbone.safetensors", foreign.timm_resnet50c())
    convert_file(weights=str(backbone), output=tmp_path / "b.safetensors")
    assert read_weights(tmp_path / "b.safetensors")[1]["network"] == (
        '{"backbone": "resnet50_v1c"}'
    )
    with refuses("jaxparse already", "predict --weights"):
        convert_file(weights=str(tmp_path / "whole.safetensors"))
    with refuses("--checkpoint"):
        convert_file()


def test_preprocessing_beside_a_file_and_by_a_flag(tmp_path: Path) -> None:
    folder, output = tmp_path / "theirs", tmp_path / "ours.safetensors"
    folder.mkdir()
    write(folder / "model.safetensors", foreign.mmseg())
    stated = {"image_mean": [0.5, 0.5, 0.5], "size": 640}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    convert_file(weights=str(folder), output=output)
    config, *_ = load_network(output)
    assert (config.image_mean, config.image_size) == ((127.5,) * 3, 640)
    with refuses(folder, "image_mean (127.5, 127.5, 127.5)", "--exp"):  # the experiment has another
        convert_file("swin_nano", str(folder), output)
    (folder / "preprocessor_config.json").unlink()
    convert_file("swin_nano", str(folder), output, image_size=96)
    assert load_network(output)[0].image_size == 96


def test_a_classifier_of_other_classes_is_left_out_if_asked(tmp_path: Path) -> None:
    state_dict = foreign.mmseg()
    for head, channels in (("decode", 64), ("auxiliary", 32)):
        name = f"{head}_head.conv_seg"
        state_dict[f"{name}.weight"] = np.ones((150, channels, 1, 1), np.float32)
        state_dict[f"{name}.bias"] = np.ones(150, np.float32)
    checkpoint = str(write(tmp_path / "theirs.safetensors", state_dict))
    with refuses(checkpoint, "150 classes", "19", "--fresh-classifier"):
        convert_file(weights=checkpoint)
    output = tmp_path / "ours.safetensors"
    convert_file(weights=checkpoint, output=output, fresh_classifier=True)
    arrays, metadata = read_weights(output)
    expected = convert("f", foreign.mmseg(), NANO).arrays
    classifiers = {name for name in expected if "conv_seg" in name}
    assert set(metadata["fresh"].split(",")) == classifiers == expected.keys() - arrays.keys()
    _, *state = split_model(NANO)
    start_weights(output, NANO, *state)


def test_a_network_without_classifier_is_no_imagenet_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not replace the file from which the experiment starts."""
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(SMALL.format("weights/start.safetensors"))
    checkpoint = str(write(Path("theirs.safetensors"), foreign.mmseg()))
    convert_file("small.py", checkpoint, fresh_classifier=True)
    assert [path.name for path in Path("weights").iterdir()] == ["small.safetensors"]


def test_imagenet_file_of_a_fine_tuning_is_not_written_into_the_run() -> None:
    config = load_experiment("deeplabv3plus_r50_finetune")
    for whole in (True, False):
        output = default_output("deeplabv3plus_r50_finetune", "f.pth", config, whole)
        assert output == Path("weights/deeplabv3plus_r50_finetune.safetensors")
