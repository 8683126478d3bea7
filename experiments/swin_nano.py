"""Swin with 32 channels and two blocks a stage, for CPUs: 2,956,084 parameters, from scratch.

    python -m jaxparse.train --exp swin_nano --data-dir DIR

2000 iterations of batch 8 at 128×128, AdamW 1e-3, no augmentation; 9 minutes on two CPU cores.
689 pictures of CelebAMask-HQ, 110 val, seeds 0, 1, 2: mIoU 42.58, 41.55, 45.24, aAcc 85.91, 86.24,
86.47.
"""

from jaxparse.config import Config

config = Config(
    image_size=128,
    batch_size=8,
    backbone="swin_nano",
    head_channels=64,
    auxiliary_channels=32,
    drop_path_rate=0.1,
    learning_rate=1e-3,
    warmup_steps=100,
    steps=2000,
    eval_every=500,
)
