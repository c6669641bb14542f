"""Correct: a queue of captions that people edit, accept or reject, with a journal of every change."""
