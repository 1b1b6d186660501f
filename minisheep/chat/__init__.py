"""Chat with a run's models: the best round, any other, the base, or two side by side.

`view` runs the conversation and shows it, `session` holds its state (pure), and `worker` has the process that owns the
model. The run folder is only read.
"""
