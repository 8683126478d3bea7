import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jaxparse.config import (
    EXPERIMENTS,
    Config,
    differing_fields,
    load_experiment,
    parse_config,
    read_config,
    save_config,
)
from tests.refusal import refuses


def parse(*args: str) -> Config:
    return parse_config("train", "Trains.", list(args))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.py")), ids=lambda path: path.stem)
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
R50, R101 = (
    {"backbone": name, "init_weights": f"weights/{name}_imagenet.safetensors"}
    for name in ("resnet50_v1c", "resnet101_v1c")
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
}
OWN = {"quickstart", "swin_nano"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_of_the_original_runs(name: str) -> None:
    assert load_experiment(name) == Config(workdir=f"runs/{name}", **RECIPES[name])


def test_every_experiment_has_a_recipe() -> None:
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} == RECIPES.keys() | OWN


def test_flags_override_the_experiment() -> None:
    config = parse("--image-size", "64", "--exp", "swin_nano", "--init-weights", "w.safetensors")
    changed = {"image_size": 64, "init_weights": "w.safetensors"}
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
    with refuses("="):
        load_experiment(str(path))


@pytest.mark.parametrize("field, value", [("steps", 0), ("batch_size", -1), ("dropout_rate", 1.0)])
def test_values_out_of_range(field: str, value: float) -> None:
    with refuses(field, value):
        Config(**{field: value})


def test_config_survives_the_disk(tmp_path: Path) -> None:
    config = Config(backbone="swin_b", seed=3, learning_rate=1e-4)
    save_config(config, tmp_path)
    assert read_config(tmp_path) == config


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with refuses("config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"colour": 3}))
    with pytest.raises(ValueError, match="not a config of this version.*colour"):
        read_config(tmp_path)


def test_only_fields_that_change_the_result_differ() -> None:
    ours = Config(seed=1, log_every=7, num_workers=9, workdir="here")
    assert differing_fields(ours, Config()) == {"seed": (1, 0)}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"precision": "fp16"}, "no precision fp16; there are: float32, bfloat16, float16"),
        (
            {"batch_size": 4, "accumulate_steps": 3},
            "batch_size is 4, no multiple of accumulate_steps 3; give an accumulate_steps that "
            "divides it",
        ),
        ({"accumulate_steps": 0}, "accumulate_steps is 0; it must be at least 1"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0; it must be in [0, 1)"),
    ],
)
def test_faults_of_precision_and_memory(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as error:
        Config(**changes)
    assert str(error.value) == expected
