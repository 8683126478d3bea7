"""The names of SegFace's parameters in its authors' files, on torchvision's Swin-B.

They keep a Sequential of torchvision's stages and mergings, whose last norm they do not use, and an
embedding for each class, named with left and right exchanged: the `rightear` learnt the left ear.
"""

from jaxparse.weights.naming import Naming, Renames

# In the order of the outputs.
TOKENS = "background neck face cloth rightear leftear rightbro leftbro righteye lefteye nose "
TOKENS += "innermouth lowerlip upperlip hair glass hat earring necklace"
TOKEN_NAMES = tuple(f"decode_head.{token}_token" for token in TOKENS.split())

TORCHVISION_SWIN: Renames = (
    ("backbone.0.0.0.", "backbone.patch_embed.proj."),
    ("backbone.0.0.2.", "backbone.patch_embed.norm."),
    *((f"backbone.0.{2 * stage + 1}.", f"backbone.layers.{stage}.blocks.") for stage in range(4)),
    *((f"backbone.0.{2 * stage}.", f"backbone.layers.{stage}.downsample.") for stage in (1, 2, 3)),
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.3.", ".mlp.fc2."),
)
HEAD: Renames = (
    ("face_decoder.", "decode_head."),
    (".output_upscaling.0.", ".upscaling.conv1."),
    (".output_upscaling.1.", ".upscaling.norm."),
    (".output_upscaling.3.", ".upscaling.conv2."),
    (".output_hypernetwork_mlps.layers.", ".hypernetwork."),
    *((f"{name}.weight", name) for name in TOKEN_NAMES),
    ("pe_layer.positional_encoding_gaussian_matrix", "decode_head.position_matrix"),
    *((f"linear_c.{i}.proj.", f"decode_head.linear_c.{i}.") for i in range(4)),
    ("linear_fuse.", "decode_head.linear_fuse."),
)
SEGFACE = Naming(
    "SegFace Swin-B",
    ("backbone.0.1.0.attn.qkv.weight", "face_decoder.background_token.weight"),
    (*TORCHVISION_SWIN, *HEAD),
    classes="facer",
    fields=(("resize_filter", "bicubic"),),
    dropped=r"^backbone\.1\.",
    regrouped=(tuple((name, 1) for name in TOKEN_NAMES), (("decode_head.class_tokens", 1),), 0),
)
