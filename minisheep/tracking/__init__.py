"""A run shown where people look: TensorBoard, Weights & Biases, trackio (``--log-to``), told from its events.

`shown_values` has what an event shows (pure), `services` takes it, and `following` reads ``events.jsonl`` in a process
for each service.
"""
