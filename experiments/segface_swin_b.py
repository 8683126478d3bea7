"""SegFace on Swin-B, 160k iterations on CelebAMask-HQ, 512×512: 91,005,752 parameters.

    python -m jaxparse.train --exp segface_swin_b --data-dir DIR

The losses and the preprocessing of SegFace's authors: cross-entropy and Dice of each class, half
of each, pictures resized bicubically. They train for 300 epochs of batches of 32 at 1e-4, which
falls to a tenth at two epochs; here the schedule is that of swin_b, and the ImageNet weights are
Microsoft's, not torchvision's.
Original: mean F1 88.96 on CelebAMask-HQ's own split. This code: hours pending, val mIoU pending.
"""

from jaxparse.config import Config

config = Config(
    resize_filter="bicubic",
    backbone="swin_b_torchvision",
    head="segface",
    head_channels=256,
    auxiliary_channels=0,
    cross_entropy_weight=0.5,
    dice_weight=0.5,
    dice_per_class=True,
    init_weights="weights/swin_b_torchvision_imagenet.safetensors",
)
