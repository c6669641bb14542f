"""Reading data: captions files, pictures, splits and prepared data, checked before any work starts."""
