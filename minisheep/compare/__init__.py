"""Settings against results: what several runs did, side by side, from their folders alone.

metrics.py   which numbers decide, and how a round's files hold them
results.py   runs read from disk: what differs in their settings, which base they share
pairs.py     differences of two models over the same items
table.py     rows as text that fits the terminal, Markdown, CSV and JSON lines
plot.py      the same as a figure
"""
