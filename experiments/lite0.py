"""EfficientNet-Lite0 with UPerNet: small enough for the wheel, from ImageNet weights.

python -m jaxparse.convert_weights --exp lite0
python -m jaxparse.train --exp lite0 --data-dir DIR
"""

from dataclasses import replace

from jaxparse.config import load_experiment

config = replace(
    load_experiment("tiny"),
    workdir="",
    init_weights="weights/efficientnet_lite0_imagenet.safetensors",
    image_mean=(127.0, 127.0, 127.0),
    image_std=(128.0, 128.0, 128.0),
    backbone="efficientnet_lite0",
    head_channels=64,
    auxiliary_channels=0,
    repeat_threshold=0.3,
    compose_probability=0.4,
    paste_probability=0.5,
    brightness=32.0,
    contrast=0.4,
    saturation=0.4,
    grey_probability=0.1,
    blur_probability=0.2,
    blur_sigma=1.5,
    learning_rate=1e-3,
    backbone_rate=0.5,
    ema_decay=0.998,
    steps=3000,
    eval_every=500,
)
