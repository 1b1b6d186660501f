"""A run shown where people look: TensorBoard, Weights & Biases, trackio (``--log-to``), told from its events."""
