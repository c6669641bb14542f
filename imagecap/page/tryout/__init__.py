"""The section "Try": captions of pictures, how sure the model was of each word, and where it looked."""
