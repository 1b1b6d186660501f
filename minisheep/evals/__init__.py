"""Tasks of lm-evaluation-harness on minisheep's own engine: base and rounds side by side, paired item by item.

The parent imports nothing here that imports lm_eval, and nothing ever unpickles a file of the harness.
"""
