"""The sample pictures and the tiny base checkpoints: how they were made."""
