"""Pictures cut into tiles, as LLaVA-NeXT and LLaVA-OneVision do it (AnyRes)."""
