"""Settings against results: what several runs did, side by side, from their folders alone.

table.py     rows of `run.comparison` as text that fits the terminal, Markdown, CSV and JSON lines
plot.py      the same as a figure
"""
