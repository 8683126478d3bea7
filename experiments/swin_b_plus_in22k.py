"""swin_b_plus from weights of ImageNet-22k, which the original challenge did not allow.

    python -m jaxparse.convert_weights --exp swin_b_plus_in22k
    python -m jaxparse.train --exp swin_b_plus_in22k --data-dir DIR

This code: hours pending, val mIoU pending.
"""

from dataclasses import replace

from jaxparse.config import load_experiment

config = replace(
    load_experiment("swin_b_plus"),
    workdir="",
    init_weights="weights/swin_b_imagenet22k.safetensors",
)
