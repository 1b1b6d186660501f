"""Verifiable instructions (IFEval, Zhou et al. 2023, arXiv 2311.07911): constraints on an answer that code can check.

All 25 kinds of instruction that IFEval has, under its names and with its arguments, decided as its published code
decides, in code of our own. Pure: no network, no data files but those of the language detector.

    verify    one constraint
    strict    all constraints of an item, on the answer as it is
    loose     the same, each on the best of eight trimmed variants of the answer
"""
