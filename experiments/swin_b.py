"""Swin-B + UPerNet, 160k iterations on CelebAMask-HQ (5000 train, 1000 val), 512×512.

    python -m jaxparse.train --exp swin_b --data-dir DIR

Original run: one RTX 2080 Ti (11 GB), mIoU 78.76 (aAcc 95.13, mAcc 86.31) on val, 77.58 on the
test server. This code: hours pending, val mIoU pending.
"""

from jaxparse.config import Config

config = Config(backbone="swin_b", init_weights="weights/swin_b_imagenet.safetensors")
