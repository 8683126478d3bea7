"""swin_nano on the built-in drawn faces, 128×128: minutes on two CPU cores, no files needed.

python -m jaxparse.train --exp quickstart
"""

from jaxparse.config import Config

config = Config(
    data_dir="synthetic",
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
