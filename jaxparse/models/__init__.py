"""Networks: name -> builder."""

from typing import Any

import jax
from flax import nnx

from jaxparse.classes import NUM_CLASSES
from jaxparse.config import Config
from jaxparse.models import swin
from jaxparse.models.fcn import FCNHead
from jaxparse.models.segmentor import AUXILIARY_STAGE, Segmentor
from jaxparse.models.upernet import UPerHead


def build_model(config: Config, key: jax.Array) -> Segmentor:
    """The network of `config`, with weights from noise.

    Raises ValueError for an unknown backbone.
    """
    if config.backbone not in swin.SIZES:
        raise ValueError(f"no backbone {config.backbone}; there are: {', '.join(swin.SIZES)}")
    rngs = nnx.Rngs(key)
    backbone = swin.Swin(swin.SIZES[config.backbone], config.drop_path_rate, rngs=rngs)
    head = UPerHead(
        backbone.channels, config.head_channels, NUM_CLASSES, config.dropout_rate, rngs=rngs
    )
    auxiliary = FCNHead(
        backbone.channels[AUXILIARY_STAGE],
        config.auxiliary_channels,
        NUM_CLASSES,
        config.dropout_rate,
        rngs=rngs,
    )
    return Segmentor(backbone, head, auxiliary)


def split_model(config: Config) -> tuple[nnx.GraphDef, dict[str, Any], dict[str, Any]]:
    """Graph definition, params and batch_stats of the network, the arrays abstract."""
    model = nnx.eval_shape(lambda: build_model(config, jax.random.key(0)))
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
