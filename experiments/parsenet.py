"""ParseNet, 160k iterations on CelebAMask-HQ, 512×512: 21,301,523 parameters.

    python -m jaxparse.train --exp parsenet --data-dir DIR

The network and the preprocessing of facexlib's, which PSFRGAN trained with no recipe stated; the
schedule is that of swin_b, from scratch. Logits are at the size of the picture.
This code: hours pending, val mIoU pending. The original states no score.
"""

from jaxparse.config import Config

config = Config(
    resize_filter="opencv",
    image_mean=(127.5, 127.5, 127.5),
    image_std=(127.5, 127.5, 127.5),
    backbone="parsenet",
    head="parsenet",
    head_channels=64,
    auxiliary_channels=0,
)
