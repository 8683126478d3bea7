"""A network for tests alone, and an experiment that trains it: seconds of compilation, not minutes.

    python -m jaxparse.train --exp tests/mini.py

Two blocks in the first stage, so that one of them shifts its windows; 64×64 drawn faces.
"""

from dataclasses import replace

from jaxparse.config import Config, load_experiment
from jaxparse.models import swin

swin.SIZES["mini"] = swin.SwinSize(8, (2, 1, 1, 1), (1, 1, 1, 1))

# Six steps of four pictures, evaluated at the end; dropout, drop path and augmentation on.
config: Config = replace(
    load_experiment("quickstart"),
    image_size=64,
    backbone="mini",
    head_channels=16,
    auxiliary_channels=16,
    batch_size=4,
    synthetic_train_count=10,
    synthetic_val_count=6,
    num_workers=2,
    mirror_probability=0.5,
    rotation_probability=0.5,
    brightness=16.0,
    learning_rate=1e-3,
    drop_path_rate=0.05,
    warmup_steps=2,
    steps=6,
    eval_every=6,
    log_every=1,
    workdir="runs/mini",
)
