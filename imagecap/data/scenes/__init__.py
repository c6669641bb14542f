"""The sample scenes: drawn pictures whose whole truth is known, with captions in English and Chinese."""
