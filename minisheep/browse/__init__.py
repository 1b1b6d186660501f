"""Looking through what a run made: `items` and `history` (pure), `words` and `pager` to show them.

Nothing is written. A run that is half-finished, damaged in a line or worked on at this moment is read as far as it is
whole.
"""
