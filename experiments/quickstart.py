"""swin_nano on the built-in drawn faces, 128×128: minutes on two CPU cores, no files needed.

    python -m jaxparse.train --exp quickstart

Half the batch, twice the rate and no drop path, against swin_nano: many small steps learn the small
classes sooner. On two CPU cores 5.5 minutes; 200 unseen faces: mIoU 66.63 (aAcc 92.94, mAcc 74.81).
Three times the steps: mIoU 79.98.
"""

from jaxparse.config import Config

config = Config(
    data_dir="synthetic",
    image_size=128,
    batch_size=4,
    backbone="swin_nano",
    head_channels=64,
    auxiliary_channels=32,
    drop_path_rate=0.0,
    learning_rate=2e-3,
    warmup_steps=100,
    steps=2200,
    eval_every=1100,
)
