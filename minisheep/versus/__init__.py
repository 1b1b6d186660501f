"""Answers of two models before a judge behind an OpenAI-compatible endpoint: pairwise as AlpacaEval does, or graded
one by one as MT-Bench does (single turn).

    wording.py    what the judge is asked, and how its reply is read
    endpoint.py   one question to the judge (see endpoint/)
    sides.py      whose answers are compared
    answering.py  answers to prompts that the run did not ask, by a worker
    versus.py     the whole comparison on a run folder, continued where it stopped
    outcome.py    verdicts into a win rate or grades with intervals
    words.py      that in words
"""
