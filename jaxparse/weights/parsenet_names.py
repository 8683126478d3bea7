"""The names of ParseNet's parameters in facexlib's file, which also holds an output of pictures."""

from jaxparse.weights.naming import STATISTICS, Naming

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
