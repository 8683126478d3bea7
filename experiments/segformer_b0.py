"""SegFormer-B0, 3,719,027 parameters: 160k iterations on CelebAMask-HQ, 512×512.

    python -m jaxparse.train --exp segformer_b0 --data-dir DIR

From NVIDIA's ImageNet weights (nvidia/mit-b0 on the Hugging Face hub; not for commercial use). The
schedule of mmsegmentation's configs, which train the head at ten times the rate of the backbone;
here all parameters have the same.
This code: hours pending, val mIoU pending.
"""

from jaxparse.config import Config

config = Config(
    backbone="mit_b0",
    head="segformer",
    head_channels=256,
    auxiliary_channels=0,
    drop_path_rate=0.1,
    init_weights="weights/mit_b0_imagenet.safetensors",
)
