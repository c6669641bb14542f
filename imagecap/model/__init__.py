"""The captioner: built from two base checkpoints, saved as and loaded from a stock LLaVA checkpoint."""
