"""Counts of trainable parameters by part of the network."""

from typing import Any

import jax
from rich.table import Table


def parameter_counts(params: dict[str, Any]) -> dict[str, int]:
    """Part of the network -> its trainable parameters, from nested dicts of arrays or shapes."""
    return {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in params.items()}


def parameters_table(params: dict[str, Any]) -> Table:
    """`parameter_counts` and their total."""
    counts = parameter_counts(params)
    table = Table("part", title="trainable parameters")
    table.add_column("parameters", justify="right")
    for part, count in counts.items():
        table.add_row(part, f"{count:,}")
    table.add_section()
    table.add_row("total", f"{sum(counts.values()):,}")
    return table
