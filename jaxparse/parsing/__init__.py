"""A picture -> logits -> classes: the network compiled, tiles, masks, overlays."""
