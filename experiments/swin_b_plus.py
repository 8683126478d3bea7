"""swin_t_plus with Swin-B.

    python -m jaxparse.train --exp swin_b_plus --data-dir DIR

This code: hours pending, val mIoU pending.
"""

from dataclasses import replace

from jaxparse.config import load_experiment

config = replace(
    load_experiment("swin_t_plus"),
    workdir="",
    backbone="swin_b",
    init_weights="weights/swin_b_imagenet.safetensors",
)
