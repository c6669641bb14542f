"""Registered versions: how each was made, its curves, captions and report, and how any two differ."""

from imagecap.page.versions.routes import offered, routes

__all__ = ["offered", "routes"]
