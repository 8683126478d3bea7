"""FaRL's ViT-B/16 + UPerNet, 160k iterations on CelebAMask-HQ, 448×448: 161,194,003 parameters.

    python -m jaxparse.train --exp farl_vit_b16 --data-dir DIR

The network and the preprocessing of FaRL, to train on from facer's weights, or from scratch; the
schedule is that of swin_b. FaRL's own pictures were aligned by five points of the face.
Original: mean F1 89.56 on CelebAMask-HQ's own split. This code: hours pending, val mIoU pending.
"""

from jaxparse.config import Config

config = Config(
    image_size=448,
    image_mean=(122.7709383, 116.7460125, 104.09373615),  # CLIP's
    image_std=(68.5005327, 66.6321579, 70.32316305),
    backbone="farl_vit_b16",
    head_channels=768,
    auxiliary_channels=0,
    drop_path_rate=0.1,
)
