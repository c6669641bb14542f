"""How good captions are: official metrics, and all that is needed to trust them."""
