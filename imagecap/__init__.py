"""ImageCap: a folder of captioned pictures in, a trained, evaluated, versioned and served captioner out."""

__version__ = "0.1.0"
