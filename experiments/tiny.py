"""Fewer than 1,821,085 trainable parameters, from scratch, 256×256: the newer challenge's limit.

    python -m jaxparse.train --exp tiny --data-dir DIR

A slim ResNet of basic blocks with UPerNet.
"""

from jaxparse.config import Config

config = Config(
    image_size=256,
    batch_size=8,
    backbone="resnet_slim",
    head_channels=64,
    auxiliary_channels=32,
    dropout_rate=0.0,
    mirror_probability=0.5,
    rotation_probability=0.5,
    rotation_degrees=25.0,
    scale_min=0.9,
    scale_max=1.25,
    brightness=16.0,
    contrast=0.25,
    saturation=0.25,
    hue=18.0,
    grey_probability=0.1,
    class_weights=(
        0.95,
        0.95,
        0.95,
        1,
        1,
        1,
        1.05,
        1.05,
        1.05,
        1.05,
        1,
        1,
        1,
        0.95,
        1.05,
        1.5,
        2,
        1,
        1.05,
    ),  # fmt: skip
    lovasz_weight=2.0,
    lovasz_stride=4,
    ema_decay=0.999,
    learning_rate=2e-3,
    weight_decay=0.01,
    warmup_steps=200,
    steps=6000,
    eval_every=500,
    log_every=50,
)
