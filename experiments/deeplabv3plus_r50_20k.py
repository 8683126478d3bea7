"""DeepLabV3+ with ResNetV1c-50, 20k iterations on CelebAMask-HQ (5000 train, 1000 val), 512×512.

    python -m jaxparse.train --exp deeplabv3plus_r50_20k --data-dir DIR

Original run: one RTX 2080 Ti (11 GB), mIoU 70-73 on val. This code: hours pending, val mIoU
pending.
"""

from jaxparse.config import Config

config = Config(
    backbone="resnet50_v1c",
    head="deeplabv3plus",
    optimizer="sgd",
    learning_rate=0.01,
    min_learning_rate=1e-4,
    poly_power=0.9,
    momentum=0.9,
    weight_decay=5e-4,
    warmup_steps=0,
    steps=20_000,
    eval_every=2_000,
    init_weights="weights/resnet50_v1c_imagenet.safetensors",
)
