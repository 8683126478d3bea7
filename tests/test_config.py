import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from jaxparse import fields
from jaxparse.classes import load_classes
from jaxparse.config import (
    RESUMABLE_FIELDS,
    Config,
    experiment_files,
    load_experiment,
    parse_arguments,
    read_config,
    require_same_run,
    save_config,
)
from tests.refusal import refuses

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
FILES = sorted(path for path in EXPERIMENTS.glob("*.py") if path.stem != "__init__")


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a command beside the fields of Config."""

    device: str = "cpu"


def parse(*args: str) -> tuple[str, Config, Flags]:
    return parse_arguments("train", "Trains.", Flags(), list(args))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_loads_by_name_and_by_path(path: Path) -> None:
    config = load_experiment(path.stem)
    assert config == load_experiment(str(path))
    assert config.workdir == f"runs/{path.stem}"


# The original runs' settings, in full: what is not here is not theirs and has its default.
COMMON = {
    "image_size": 512,
    "batch_size": 4,
    "head_channels": 512,
    "auxiliary_channels": 256,
    "dropout_rate": 0.1,
    "auxiliary_weight": 0.4,
    "log_every": 50,
}
SWIN = COMMON | {
    "head": "upernet",
    "drop_path_rate": 0.3,
    "optimizer": "adamw",
    "learning_rate": 6e-5,
    "min_learning_rate": 0.0,
    "poly_power": 1.0,
    "warmup_steps": 1500,
    "weight_decay": 0.01,
    "steps": 160_000,
    "eval_every": 16_000,
}
RESNET = COMMON | {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "min_learning_rate": 1e-4,
    "poly_power": 0.9,
    "warmup_steps": 0,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}
DEEPLAB = RESNET | {"head": "deeplabv3plus"}
PSANET = RESNET | {"head": "psanet", "steps": 80_000, "eval_every": 8_000}
# zllrunning's, but for what a Config has no field for: the experiment names it.
BISENET = COMMON | {
    "head": "bisenet",
    "auxiliary_channels": 0,
    "align_corners": True,
    "batch_size": 16,
    "mirror_probability": 0.5,
    "scale_min": 0.75,
    "scale_max": 2.0,
    "brightness": 64.0,
    "contrast": 0.5,
    "saturation": 0.5,
    "auxiliary_weight": 1.0,
    "cross_entropy_divisor": "kept",
    "ohem_min_kept": 16_384,
    "ohem_threshold": 0.7,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "min_learning_rate": 0.0,
    "poly_power": 0.9,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "warmup_steps": 1000,
    "steps": 80_000,
    "eval_every": 8_000,
}
SEGFORMER = SWIN | {"head": "segformer", "auxiliary_channels": 0, "drop_path_rate": 0.1}
# Networks and preprocessing of their authors, schedules of SWIN.
SEGFACE = SWIN | {
    "resize_filter": "bicubic",
    "backbone": "swin_b_torchvision",
    "head": "segface",
    "head_channels": 256,
    "auxiliary_channels": 0,
    "cross_entropy_weight": 0.5,
    "dice_weight": 0.5,
    "dice_per_class": True,
    "init_weights": "weights/swin_b_torchvision_imagenet.safetensors",
}
FARL = SWIN | {
    "image_size": 448,
    "image_mean": (122.7709383, 116.7460125, 104.09373615),
    "image_std": (68.5005327, 66.6321579, 70.32316305),
    "backbone": "farl_vit_b16",
    "head_channels": 768,
    "auxiliary_channels": 0,
    "drop_path_rate": 0.1,
}
PARSENET = SWIN | {
    "resize_filter": "opencv",
    "image_mean": (127.5, 127.5, 127.5),
    "image_std": (127.5, 127.5, 127.5),
    "backbone": "parsenet",
    "head": "parsenet",
    "head_channels": 64,
    "auxiliary_channels": 0,
}
R18, R34, R50, R101 = (
    {"backbone": name, "init_weights": f"weights/{name}_imagenet.safetensors"}
    for name in ("resnet18", "resnet34", "resnet50_v1c", "resnet101_v1c")
)
SHORT = {"steps": 20_000, "eval_every": 2_000}
LONG = {"steps": 40_000, "eval_every": 4_000}
FINETUNE = SHORT | {
    "learning_rate": 1e-4,
    "min_learning_rate": 1e-5,
    "momentum": 0.0,
    "weight_decay": 2e-4,
    "init_weights": "runs/deeplabv3plus_r50_20k",
}
RECIPES = {
    "swin_t": SWIN | {"backbone": "swin_t", "init_weights": "weights/swin_t_imagenet.safetensors"},
    "swin_b": SWIN | {"backbone": "swin_b", "init_weights": "weights/swin_b_imagenet.safetensors"},
    "deeplabv3plus_r50_20k": DEEPLAB | R50 | SHORT,
    "deeplabv3plus_r50_40k": DEEPLAB | R50 | LONG,
    "deeplabv3plus_r101_20k": DEEPLAB | R101 | SHORT,
    "deeplabv3plus_r101_40k": DEEPLAB | R101 | LONG,
    "deeplabv3plus_r50_finetune": DEEPLAB | R50 | FINETUNE,
    "psanet_r50_80k": PSANET | R50,
    "psanet_r101_80k": PSANET | R101,
    "segformer_b0": SEGFORMER
    | {"backbone": "mit_b0", "head_channels": 256}
    | {"init_weights": "weights/mit_b0_imagenet.safetensors"},
    "segformer_b2": SEGFORMER
    | {"backbone": "mit_b2", "head_channels": 768}
    | {"init_weights": "weights/mit_b2_imagenet.safetensors"},
    "bisenet_r18": BISENET | R18,
    "bisenet_r34": BISENET | R34,
    "segface_swin_b": SEGFACE,
    "farl_vit_b16": FARL,
    "parsenet": PARSENET,
}
OWN = {"lite0", "quickstart", "swin_nano", "tiny"}
PLUS = {
    "swin_t_plus": "swin_t",
    "swin_b_plus": "swin_b",
    "swin_b_plus_in22k": "swin_b",
    "deeplabv3plus_r50_plus": "deeplabv3plus_r50_40k",
}
CHANGED = {"workdir", "steps", "eval_every", "init_weights", "ema_decay"}
CHANGED |= {"class_weights", "lovasz_weight", "mirror_probability", "rotation_probability"}
CHANGED |= {"scale_max", "brightness", "contrast", "saturation", "hue"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_of_the_original_runs(name: str) -> None:
    assert load_experiment(name) == Config(workdir=f"runs/{name}", **RECIPES[name])


def test_every_experiment_has_a_recipe() -> None:
    assert {path.stem for path in FILES} == RECIPES.keys() | OWN | PLUS.keys()


@pytest.mark.parametrize("name", PLUS)
def test_plus_differs_from_its_recipe_only_in_the_ingredients(name: str) -> None:
    plus, original = map(load_experiment, (name, PLUS[name]))
    fields = {f.name for f in dataclasses.fields(Config)}
    changed = {f for f in fields if getattr(plus, f) != getattr(original, f)}
    assert CHANGED - {"init_weights", "steps", "eval_every"} <= changed <= CHANGED
    assert plus.steps % plus.eval_every == 0
    # As much weight as public runs found best, for classes and for Lovász.
    assert (plus.lovasz_weight, plus.class_weights[15:17]) == (2, (1.5, 2))


def test_flags_override_the_experiment() -> None:
    args = ("--image-size", "64", "--exp", "swin_nano", "--init-weights", "w.safetensors")
    exp, config, flags = parse(*args, "--device", "h100")
    changed = {"image_size": 64, "init_weights": "w.safetensors"}
    assert (exp, flags) == ("swin_nano", Flags("h100"))
    assert config == dataclasses.replace(load_experiment("swin_nano"), **changed)


def test_unknown_flag_and_missing_experiment_end_with_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for args in (("--exp", "swin_nano", "--stepz", "5"), ("--steps", "5")):
        with pytest.raises(SystemExit) as stop:
            parse(*args)
        assert stop.value.code == 2
    assert "--exp" in capsys.readouterr().err


def test_unknown_experiment_lists_the_known() -> None:
    with refuses("swim_t", "swin_b"):
        load_experiment("swim_t")


def test_experiment_without_config(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("settings = 1\n")
    with refuses(path, "config = Config(...)"):
        load_experiment(str(path))


@pytest.mark.parametrize("field, value", [("steps", 0), ("batch_size", -1), ("dropout_rate", 1.0)])
def test_values_out_of_range(field: str, value: float) -> None:
    with refuses(field, value):
        Config(**{field: value})


def test_config_survives_the_disk(tmp_path: Path) -> None:
    config = Config(backbone="swin_b", seed=3, learning_rate=1e-4)
    save_config(config, tmp_path)
    assert read_config(tmp_path) == config


WEIGHTS = (0.5, *(1.0,) * 17, 2.0)


def test_class_weights_survive_the_disk_and_the_command_line(tmp_path: Path) -> None:
    config = Config(class_weights=WEIGHTS, workdir=str(tmp_path))
    save_config(config, tmp_path)
    assert read_config(tmp_path) == config
    require_same_run(config)
    with refuses("class_weights (0.5, ", "(now ())"):
        require_same_run(dataclasses.replace(config, class_weights=()))
    flags = ("--exp", "swin_nano", "--class-weights", *map(str, WEIGHTS), "--steps", "5")
    parsed = parse(*flags)[1]
    assert (parsed.class_weights, parsed.steps) == (WEIGHTS, 5)


def test_a_run_from_before_a_field_has_its_default(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"seed": 3}')
    assert read_config(tmp_path) == Config(seed=3)


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with refuses("config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"colour": 3}))
    with refuses(tmp_path / "config.json", "colour"):
        read_config(tmp_path)


def test_only_fields_that_change_the_result_make_another_run(tmp_path: Path) -> None:
    ours = Config(seed=1, workdir=str(tmp_path))
    require_same_run(ours)  # a new folder
    save_config(ours, tmp_path)
    free = {"log_every": 7, "num_workers": 9, "remat": True, "eval_every": 5}
    assert set(free) < set(RESUMABLE_FIELDS)
    require_same_run(dataclasses.replace(ours, **free))
    with refuses(tmp_path, "seed 1 (now 0)", "--workdir"):
        require_same_run(dataclasses.replace(ours, seed=0, **free))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"precision": "fp16"}, ("fp16", "float32, bfloat16, float16")),
        ({"head": "fcn"}, ("head is fcn", "upernet, deeplabv3plus, psanet")),
        ({"optimizer": "lion"}, ("optimizer is lion", "adamw, sgd")),
        ({"labels_are": "mine"}, ("labels_are is 'mine'", "celebamask")),
        ({"class_weights": (1.0,) * 18}, ("class_weights are 18", "19 classes")),
        ({"batch_size": 4, "accumulate_steps": 3}, ("batch_size is 4", "accumulate_steps", "3")),
        ({"accumulate_steps": 0}, ("accumulate_steps is 0", "at least 1")),
        ({"ema_decay": 1.0}, ("ema_decay is 1.0", "[0, 1)")),
        ({"learning_rate": -1.0}, ("learning_rate is -1.0", "above 0")),
        ({"learning_rate": float("nan")}, ("learning_rate is nan", "above 0")),
        ({"warmup_steps": -5}, ("warmup_steps is -5", "at least 0")),
        ({"momentum": 2.0}, ("momentum is 2.0", "[0, 1)")),
        ({"head_channels": 0}, ("head_channels is 0", "at least 1")),
        ({"steps": 2**31}, ("steps is 2147483648", "2147483647")),
        ({"learning_rate": 10**399}, ("learning_rate is 10000", "finite")),
        ({"seed": 2**64}, ("seed is 18446744073709551616", "4294967295")),
        ({"steps": "5"}, ("steps is '5'", "int")),
        ({"steps": True}, ("steps is True", "int")),
        ({"backbone": None}, ("backbone is None", "str")),
        ({"class_weights": (0.0,) * 19}, ("class_weights", "not all 0")),
        ({"class_weights": (1.0,) * 18 + (-1.0,)}, ("class_weights", "-1.0", "at least 0")),
        ({"class_weights": (1.0,) * 18 + (float("inf"),)}, ("class_weights", "inf", "finite")),
        ({"class_weights": (1.0,) * 18 + ("1",)}, ("class_weights[18] is '1'", "float")),
        ({"class_weights": [1.0] * 19}, ("class_weights is [1.0", "tuple")),
        ({"cross_entropy_divisor": "mean"}, ("is mean", "pixels, valid, weights")),
        ({"cross_entropy_weight": 0.0}, ("cross_entropy_weight, lovasz_weight", "all 0")),
        ({"lovasz_weight": -1.0}, ("lovasz_weight is -1.0", "at least 0")),
        ({"lovasz_stride": 0}, ("lovasz_stride is 0", "at least 1")),
        ({"label_smoothing": 1.0}, ("label_smoothing is 1.0", "[0, 1)")),
        ({"ohem_threshold": 0.7}, ("ohem_threshold is 0.7", "ohem_min_kept")),
    ],
)
def test_values_that_no_run_can_have(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with refuses(*words):
        Config(**changes)


def test_experiments_of_the_folder_come_before_those_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_experiment("swin_b").backbone == "swin_b"  # from anywhere
    (tmp_path / "experiments").mkdir()
    for name in ("swin_b", "mine"):
        text = "from jaxparse.config import Config\nconfig = Config(steps=7)\n"
        (tmp_path / "experiments" / f"{name}.py").write_text(text)
        config = load_experiment(name)
        assert (config.steps, config.workdir) == (7, f"runs/{name}")
    assert "quickstart" in experiment_files()


def test_a_checkout_that_is_not_installed_has_its_own_experiments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.chdir(EXPERIMENTS.parent)
    monkeypatch.setattr(resources, "files", missing)
    assert load_experiment("swin_b").backbone == "swin_b"


def test_every_number_has_a_range() -> None:
    ranged = [name for names, _, _ in fields.RANGES for name in names]
    hints = get_type_hints(Config)
    numbers = (int, float, tuple[float, ...])
    assert sorted(ranged) == sorted(name for name, hint in hints.items() if hint in numbers)


@pytest.mark.parametrize(
    "text, words",
    [("{", "JSON"), ("[]", "fields"), ('{"steps": 0}', "steps is 0"), ('{"steps": "a"}', "int")],
)
def test_config_on_disk_is_not_trusted(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with refuses(tmp_path / "config.json", words):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "last, words",
    [
        ("config = Config(lr=3)", ("line 2", "TypeError", "lr")),
        ("config = Config(steps=0)", ("line 2", "steps is 0")),
        ("import missing", ("line 2", "ModuleNotFoundError", "missing")),
        ("config = Config(", ("line 2", "SyntaxError")),
        ("\0", ("SyntaxError", "null bytes")),
    ],
)
def test_an_experiment_that_cannot_be_run_names_its_line(
    tmp_path: Path, last: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from jaxparse.config import Config\n{last}\n")
    with refuses(path, *words):
        load_experiment(str(path))


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, '{"a\\nb": 1}'])
def test_what_config_json_may_hold_is_one_short_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"steps": {text}}}' if text[0] in "9[" else text)
    with refuses(tmp_path / "config.json") as caught:
        read_config(tmp_path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_tables_by_their_names(tmp_path: Path) -> None:
    assert Config(classes="lapa", labels_are="celebamask").classes == load_classes("lapa")
    (tmp_path / "own.json").write_text('{"names": ["background", "hair"]}')
    assert Config(classes=tmp_path / "own.json").classes.names == ("background", "hair")
