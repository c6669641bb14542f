"""Pretrains the two tiny base checkpoints on scenes of their own; see `sampledata/pretrain.py`."""
