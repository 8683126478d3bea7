"""The names of BiSeNet's parameters in the files of zllrunning, facexlib and yakhyo, and those of
facexlib's other network, ParseNet.

facexlib's names are zllrunning's. yakhyo's files also hold the ImageNet classifier of the backbone,
ParseNet's an output of pictures.
"""

from jaxparse.weights.naming import PLAIN_STEM, STATISTICS, Naming, Renames

OUTPUTS = ("conv_out", "conv_out16", "conv_out32")

# Outputs and fusion lie beside the context path, which holds the backbone; here in the head.
BESIDE: Renames = tuple((f"{part}.", f"decode_head.{part}.") for part in ("ffm", *OUTPUTS))
# In a block of several modules their convolution, norm and ReLU are one module.
BLOCKS: Renames = (
    ("ffm.conv_block.", "ffm.convblk."),
    *((f"{part}.conv_block.", f"{part}.conv.") for part in ("arm16", "arm32", *OUTPUTS)),
)
ZLLRUNNING_BISENET = Naming(
    "zllrunning or facexlib BiSeNet",
    ("cp.resnet.conv1.weight", "cp.arm32.conv_atten.weight"),
    (
        (".conv_out.weight", ".conv_seg.weight"),
        ("cp.resnet.", "backbone."),
        ("cp.", "decode_head."),
        *BESIDE,
        *PLAIN_STEM,
        *STATISTICS,
    ),
    classes="zllrunning",
    fields=(("align_corners", True),),
)
YAKHYO_BISENET = ZLLRUNNING_BISENET._replace(
    name="yakhyo BiSeNet",
    markers=("fpn.backbone.conv1.weight", "fpn.arm32.attention.0.weight"),
    renames=(
        *((f"{part}.conv.weight", f"{part}.conv_seg.weight") for part in OUTPUTS),
        *BLOCKS,
        (".attention.0.", ".conv_atten."),
        (".attention.1.", ".bn_atten."),
        (".norm.", ".bn."),
        ("fpn.backbone.", "backbone."),
        ("fpn.", "decode_head."),
        *BESIDE,
        *PLAIN_STEM,
        *STATISTICS,
    ),
)
PARSENET = Naming(
    "facexlib ParseNet",
    ("encoder.1.shortcut_func.conv2d.weight", "out_mask_conv.conv2d.weight"),
    (
        ("encoder.", "backbone.encoder."),
        ("body.", "backbone.body."),
        ("decoder.", "decode_head.decoder."),
        ("out_mask_conv.conv2d.", "decode_head.conv_seg."),
        (".conv2d.", ".conv."),
        (".norm.norm.", ".bn."),
        *STATISTICS,
    ),
    fields=(
        ("resize_filter", "opencv"),
        ("image_mean", (127.5,) * 3),
        ("image_std", (127.5,) * 3),
    ),
    dropped=r"^out_img_conv\.",
)
