"""What the fields of a Config may hold: their types, from the annotations, and their ranges."""

import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxparse.files import brief

LOSS_WEIGHTS = ("cross_entropy_weight", "lovasz_weight", "dice_weight", "focal_weight")
LARGEST = sys.float_info.max  # an int beyond it is below infinity and is no float

# Fields, what their values must be, and that in words. NaN is in no range.
RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("synthetic_train_count", "synthetic_val_count", "image_size", "batch_size")
        + ("num_workers", "head_channels", "accumulate_steps", "steps", "eval_every")
        + ("log_every", "boundary_width", "lovasz_stride"),
        lambda value: 1 <= value < 2**31,  # steps are int32 on the device
        "at least 1 and at most 2147483647",
    ),
    (
        ("drop_path_rate", "dropout_rate", "ema_decay", "momentum", "label_smoothing")
        + ("ohem_threshold",),
        lambda value: 0 <= value < 1,
        "in [0, 1)",
    ),
    (
        ("auxiliary_weight", "min_learning_rate", "poly_power", "weight_decay")
        + LOSS_WEIGHTS
        + ("boundary_weight",),
        lambda value: 0 <= value <= LARGEST,
        "finite and at least 0",
    ),
    (
        ("mirror_probability", "rotation_probability", "grey_probability", "blur_probability")
        + ("cutout_probability", "cutout_size", "translation", "contrast", "saturation")
        + ("repeat_threshold", "compose_probability", "paste_probability"),
        lambda value: 0 <= value <= 1,
        "in 0..1",
    ),
    (
        ("warmup_steps", "ohem_min_kept", "keep_evaluations", "auxiliary_channels"),
        lambda value: 0 <= value < 2**31,
        "at least 0 and at most 2147483647",
    ),
    (("rotation_degrees", "hue"), lambda value: 0 <= value <= 180, "in 0..180"),
    (("brightness",), lambda value: 0 <= value <= 255, "in 0..255"),
    (("scale_min", "scale_max"), lambda value: 0.1 <= value <= 10, "in 0.1..10"),
    (("blur_sigma",), lambda value: 0 < value <= 10, "above 0 and at most 10"),
    (
        ("image_mean",),
        lambda value: len(value) == 3 and all(0 <= x <= 255 for x in value),
        "three numbers in 0..255",
    ),
    (
        ("image_std",),
        lambda value: len(value) == 3 and all(0 < x <= 255 for x in value),
        "three numbers above 0 and at most 255",
    ),
    (("learning_rate", "backbone_rate"), lambda value: 0 < value <= LARGEST, "finite and above 0"),
    (("seed",), lambda value: 0 <= value < 2**32, "in 0..4294967295"),
    (
        ("class_weights",),
        lambda value: not value or (all(0 <= w <= LARGEST for w in value) and any(value)),
        "empty or finite numbers of at least 0, not all 0",
    ),
)


def _require_type(name: str, value: object, hint: object) -> None:
    """Raises ValueError unless the value is of the field's type; an int is also a float."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            choices = ", ".join(get_args(hint))
            raise ValueError(f"{name} is {brief(value)}; it must be one of: {choices}")
        return
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise ValueError(f"{name} is {value!r}; it must be a tuple")
        for index, item in enumerate(value):
            _require_type(f"{name}[{index}]", item, get_args(hint)[0])
        return
    types = (int, float) if hint is float else get_args(hint) or (hint,)  # args: of a union
    if not isinstance(value, types) or (isinstance(value, bool) and hint is not bool):
        expected = " or ".join(each.__name__ for each in get_args(hint) or (hint,))
        raise ValueError(f"{name} is {brief(repr(value))}; it must be of type {expected}")


def require_fields(config: Any) -> None:  # noqa: ANN401
    """Raises ValueError, naming a field of the dataclass, if it is of another type or range."""
    for name, hint in get_type_hints(type(config)).items():
        _require_type(name, getattr(config, name), hint)
    for names, is_valid, expected in RANGES:
        for name in names:
            if not is_valid(getattr(config, name)):
                raise ValueError(f"{name} is {brief(getattr(config, name))}; it must be {expected}")
