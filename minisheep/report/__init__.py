"""A run as one HTML page and the same report in Markdown, made from the run folder alone."""
