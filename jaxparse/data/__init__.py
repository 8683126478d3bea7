"""Pictures and masks: on disk, drawn, in pairs, in batches."""
