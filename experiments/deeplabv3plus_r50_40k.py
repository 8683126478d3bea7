"""DeepLabV3+ with ResNetV1c-50, 40k iterations on CelebAMask-HQ (5000 train, 1000 val), 512×512.

    python -m jaxparse.train --exp deeplabv3plus_r50_40k --data-dir DIR

Original run: one RTX 2080 Ti (11 GB), mIoU 70-73 on val. This code: hours pending, val mIoU
pending.
"""

from dataclasses import replace

from jaxparse.config import load_experiment

config = replace(
    load_experiment("deeplabv3plus_r50_20k"),
    workdir="",
    steps=40_000,
    eval_every=4_000,
)
