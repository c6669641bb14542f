"""Blind judgments of pairs of captions: which of two versions, or of two runs, people prefer."""
