"""An outside judge behind an OpenAI-compatible endpoint compares the answers of two models of a run.

It judges pairs as AlpacaEval does, or grades each answer as MT-Bench does (single turn).
"""
