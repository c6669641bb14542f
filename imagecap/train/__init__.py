"""Training: packed batches, loss, feature cache, optimizer, exact resume and the training loop."""
