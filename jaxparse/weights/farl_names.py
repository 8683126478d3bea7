"""The names of FaRL's parameters in facer's files: CLIP's ViT, necks, mmsegmentation's UPerHead.

The files hold the mean and standard deviation of pictures in 0..1, which FaRL takes out inside.
"""

from jaxparse.weights.naming import MMSEG_HEADS, Naming

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FARL = Naming(
    "FaRL ViT-B/16 + UPerNet",
    ("backbone.visual.class_embedding", "head.head.conv_seg.weight"),
    (
        ("backbone.visual.transformer.resblocks.", "backbone.blocks."),
        (".attn.in_proj_", ".attn.qkv."),
        (".attn.out_proj.", ".attn.proj."),
        (".ln_1.", ".norm1."),
        (".ln_2.", ".norm2."),
        (".mlp.c_fc.", ".mlp.fc1."),
        (".mlp.c_proj.", ".mlp.fc2."),
        ("backbone.visual.class_embedding", "backbone.cls_token"),
        ("backbone.visual.positional_embedding", "backbone.pos_embed"),
        ("backbone.visual.conv1.", "backbone.patch_embed."),
        ("backbone.visual.ln_pre.", "backbone.norm_pre."),
        ("backbone.fpns.0.0.", "backbone.fpns.0.conv1."),
        ("backbone.fpns.0.1.", "backbone.fpns.0.bn."),
        ("backbone.fpns.0.3.", "backbone.fpns.0.conv2."),
        ("head.head.", "decode_head."),
        *MMSEG_HEADS,
    ),
    classes="facer",
    fields=(
        ("image_size", 448),
        ("image_mean", tuple(round(255 * mean, 8) for mean in CLIP_MEAN)),
        ("image_std", tuple(round(255 * std, 8) for std in CLIP_STD)),
    ),
    # CLIP's norm and projection to the space it shares with texts.
    dropped=r"^backbone\.(visual\.(ln_post\.|proj$)|image_(mean|std)$)",
    constants=(("backbone.image_mean", CLIP_MEAN), ("backbone.image_std", CLIP_STD)),
)
