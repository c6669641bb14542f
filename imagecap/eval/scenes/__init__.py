"""What a sample scene shows and whether a caption of it is true; the drawing is in `sampledata/scenes`."""
