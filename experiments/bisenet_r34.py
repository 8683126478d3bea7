"""BiSeNet with ResNet-34, 80k iterations on CelebAMask-HQ, 512×512: 23,408,576 parameters.

    python -m jaxparse.train --exp bisenet_r34 --data-dir DIR

yakhyo's network, with the recipe of bisenet_r18. This code: hours pending, val mIoU pending.
"""

from dataclasses import replace

from jaxparse.config import load_experiment

config = replace(
    load_experiment("bisenet_r18"),
    workdir="",
    backbone="resnet34",
    init_weights="weights/resnet34_imagenet.safetensors",
)
