"""The page: try a captioner, judge two of them blind, correct captions, and look at what training made."""
