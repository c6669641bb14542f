"""Descriptions of sample scenes, and whether a caption of it is true; the drawing is in `sampledata/scenes`."""
