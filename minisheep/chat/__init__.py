"""Chat with a run's models: the best round, any other, the base, or two side by side. The run folder is only read."""
