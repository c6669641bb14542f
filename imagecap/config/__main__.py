"""`python -m imagecap.config`: write the comments of params.yaml and the settings reference anew."""

from pathlib import Path

from imagecap.config.document import reference, with_comments
from imagecap.files import atomic_write_text

if __name__ == "__main__":
    params = Path("params.yaml")
    atomic_write_text(params, with_comments(params.read_text(encoding="utf-8")))
    atomic_write_text(Path("docs/reference/settings.md"), reference())
