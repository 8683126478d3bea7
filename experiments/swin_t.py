"""Swin-T + UPerNet, 160k iterations on CelebAMask-HQ (5000 train, 1000 val), 512×512.

    python -m jaxparse.train --exp swin_t --data-dir DIR

Original run: one RTX 2080 Ti (11 GB), mIoU 78.29 on val, 76.78 on the test server.
This code: hours pending, val mIoU pending.
"""

from jaxparse.config import Config

config = Config(backbone="swin_t", init_weights="weights/swin_t_imagenet.safetensors")
