#!/usr/bin/env python3
"""`python run.py train|eval|generate|register|…`: the same as the installed `imagecap` script."""

from imagecap.main import main

if __name__ == "__main__":
    raise SystemExit(main())
