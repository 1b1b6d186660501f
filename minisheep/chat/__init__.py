"""Talking to a run's models: the best round, any other, the base, or two side by side.

`talk` goes on, `session` is all that it remembers (pure), `speak` owns a worker process that owns the model
(`desk`), `render` and `screens` show what came. Nothing in the run folder is changed.
"""
