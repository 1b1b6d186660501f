"""A run's model behind an OpenAI-compatible address, for programs on this machine. The run folder is only read."""
