"""PSANet with ResNetV1c-101, 80k iterations on CelebAMask-HQ (5000 train, 1000 val), 512×512.

    python -m jaxparse.train --exp psanet_r101_80k --data-dir DIR

Original run: one RTX 2080 Ti (11 GB), mIoU 70-73 on val. This code: hours pending, val mIoU
pending.
"""

from dataclasses import replace

from jaxparse.config import load_experiment

config = replace(
    load_experiment("psanet_r50_80k"),
    workdir="",
    backbone="resnet101_v1c",
    init_weights="weights/resnet101_v1c_imagenet.safetensors",
)
