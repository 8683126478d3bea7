"""SegFormer-B0, 3,719,027 parameters: 160k iterations on CelebAMask-HQ, 512×512.

    python -m jaxparse.convert_weights --exp segformer_b0 --weights mit_b0.pth
    python -m jaxparse.train --exp segformer_b0 --data-dir DIR

From ImageNet weights of MiT-B0: NVIDIA's mit_b0.pth, OpenMMLab's, or the pytorch_model.bin of
Hugging Face's nvidia/mit-b0. The schedule of mmsegmentation's configs, which train the head at ten
times the rate of the backbone; here all parameters have the same.
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
