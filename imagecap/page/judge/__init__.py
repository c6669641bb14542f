"""Blind judgments of pairs of captions: which of two versions, or of two runs, people prefer."""

from imagecap.page.judge.routes import offered, routes

__all__ = ["offered", "routes"]
