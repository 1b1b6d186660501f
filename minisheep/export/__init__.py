"""A trained round as files that other programs use, checked before they appear."""
