"""BiSeNet with ResNet-18, 80k iterations on CelebAMask-HQ, 512×512: 13,300,416 parameters.

    python -m jaxparse.train --exp bisenet_r18 --data-dir DIR

The recipe of zllrunning's face-parsing.PyTorch, on torchvision's ImageNet weights: OHEM on three
outputs of equal weight, mean over the pixels kept; colours changed by up to half. It differs in
what a Config has no field for: there pictures of 512×512 are scaled by 0.75, 1, 1.25 … 2 and cut to
448×448 (here the frame stays 512×512), brightness is a factor (here it is added), the fusion and
the outputs learn at ten times the rate, norms do not decay, and the warm-up is exponential.
This code: hours pending, val mIoU pending. The original states no score.
"""

from jaxparse.config import Config

config = Config(
    batch_size=16,
    backbone="resnet18",
    head="bisenet",
    auxiliary_channels=0,
    align_corners=True,
    mirror_probability=0.5,
    scale_min=0.75,
    scale_max=2.0,
    brightness=64.0,
    contrast=0.5,
    saturation=0.5,
    auxiliary_weight=1.0,
    cross_entropy_divisor="kept",
    ohem_min_kept=512 * 512 // 16,
    ohem_threshold=0.7,
    optimizer="sgd",
    learning_rate=0.01,
    poly_power=0.9,
    momentum=0.9,
    weight_decay=5e-4,
    warmup_steps=1000,
    steps=80_000,
    eval_every=8_000,
    init_weights="weights/resnet18_imagenet.safetensors",
)
