"""segformer_b0 with MiT-B2 and a head of 768 channels: 27,361,235 parameters.

    python -m jaxparse.train --exp segformer_b2 --data-dir DIR

This code: hours pending, val mIoU pending.
"""

from dataclasses import replace

from jaxparse.config import load_experiment

config = replace(
    load_experiment("segformer_b0"),
    workdir="",
    backbone="mit_b2",
    head_channels=768,
    init_weights="weights/mit_b2_imagenet.safetensors",
)
