"""The names of SegFormer's parameters in the files of its authors and of other packages.

Each kind comes as a whole segmentor and as an ImageNet backbone, the authors' as the latter only.
"""

from jaxparse.weights.naming import HEADS, MMSEG_HEADS, STATISTICS, Naming, Parts, Renames

# Of the authors, whose stages are numbered from 1 and whose modules lie side by side.
MIT_STAGES: Renames = tuple(
    (f"backbone.{theirs}{stage + 1}.", f"backbone.stages.{stage}.{ours}")
    for stage in range(4)
    for theirs, ours in (("patch_embed", "patch_embed."), ("block", "blocks."), ("norm", "norm."))
)
MIT: Renames = (*MIT_STAGES, (".dwconv.dwconv.", ".dwconv."))
HF_MIT: Renames = (
    ("segformer.encoder.", "backbone."),
    *(
        (f"backbone.{theirs}.{stage}.", f"backbone.stages.{stage}.{ours}.")
        for stage in range(4)
        for theirs, ours in (
            ("patch_embeddings", "patch_embed"),
            ("block", "blocks"),
            ("layer_norm", "norm"),
        )
    ),
    (".layer_norm_1.", ".norm1."),
    (".layer_norm_2.", ".norm2."),
    (".patch_embed.layer_norm.", ".patch_embed.norm."),
    (".attention.self.", ".attn."),
    (".attention.output.dense.", ".attn.proj."),
    (".attn.layer_norm.", ".attn.norm."),
    (".attn.query.", ".attn.q."),
    (".mlp.dense1.", ".mlp.fc1."),
    (".mlp.dense2.", ".mlp.fc2."),
    (".dwconv.dwconv.", ".dwconv."),
)
MMSEG_MIT: Renames = (
    *(
        (f"backbone.layers.{stage}.{index}.", f"backbone.stages.{stage}.{ours}.")
        for stage in range(4)
        for index, ours in enumerate(("patch_embed", "blocks", "norm"))
    ),
    (".patch_embed.projection.", ".patch_embed.proj."),
    (".attn.attn.in_proj_", ".attn.in_proj."),
    (".attn.attn.out_proj.", ".attn.proj."),
    (".ffn.layers.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.dwconv."),
    (".ffn.layers.4.", ".mlp.fc2."),
)
HF_HEADS: Renames = (
    *((f".linear_c.{i}.proj.", f".linear_c.{i}.") for i in range(4)),
    *((f"psp_modules.{i}.1.", f"psp_modules.{i}.") for i in range(4)),
    ("_head.classifier.", "_head.conv_seg."),
    (".batch_norm.", ".bn."),
    *STATISTICS,
)
KEY_VALUE: tuple[Parts, Parts] = ((".attn.key.", 1), (".attn.value.", 1)), ((".attn.kv.", 1),)
IN_PROJ: tuple[Parts, Parts] = ((".attn.in_proj.", 1),), ((".attn.q.", 1), (".attn.kv.", 2))


HF_SEGFORMER = Naming(
    "Hugging Face SegFormer",
    ("segformer.encoder.patch_embeddings.0.proj.bias", "decode_head.linear_fuse.weight"),
    (*HF_MIT, *HF_HEADS),
    regrouped=KEY_VALUE,
)
HF_MIT_BACKBONE = HF_SEGFORMER._replace(
    name="Hugging Face ImageNet MiT",
    markers=("segformer.encoder.patch_embeddings.0.proj.bias", "classifier.weight"),
    renames=HF_MIT,
    fresh=HEADS,
)
MMSEG_SEGFORMER = Naming(
    "mmsegmentation SegFormer segmentor",
    ("backbone.layers.0.0.projection.bias", "decode_head.fusion_conv.conv.weight"),
    (*MMSEG_MIT, *MMSEG_HEADS),
    regrouped=IN_PROJ,
    pointwise=(".mlp.fc1.", ".mlp.fc2."),
)
MMSEG_MIT_BACKBONE = MMSEG_SEGFORMER._replace(
    name="mmsegmentation ImageNet MiT",
    markers=("layers.0.0.projection.bias",),
    renames=MMSEG_MIT,
    fresh=HEADS,
    prefix="backbone.",
)
NVIDIA_MIT = Naming(
    "NVIDIA ImageNet MiT",
    ("patch_embed1.proj.bias",),
    MIT,
    fresh=HEADS,
    prefix="backbone.",
)
