"""What a person sees: events in words, views, the live screen, the pager, and tables of compared runs.

A screen only reads the run folder, in the process that started the run as in any other; so it cannot harm a run.
"""
