"""An outside judge behind an OpenAI-compatible endpoint compares the answers of two models of a run.

It judges pairs as AlpacaEval does, or grades each answer as MT-Bench does (single turn). `outside_judge` runs the whole
comparison on a run folder and continues one that stopped; `contests` holds the answers and turns verdicts into numbers;
`versus_prompts` words the questions and reads the replies; `worker` answers prompts that the run has not answered.
"""
