"""The training run: steps, optimiser, losses, checkpoints, logs, evaluation on the way."""
