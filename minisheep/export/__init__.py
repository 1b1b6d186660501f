"""A round of a run as something that other programs use, checked before it appears.

choose.py   which round, which folder          spec.py      what crosses to the worker
session.py  the parent's part                  desk.py      the worker's: makes, then checks
merge.py    base GGUF + adapter -> GGUF        weights.py   base safetensors + adapter -> safetensors
families.py, modelfile.py, jinja.py            the trained frame in the words of other programs
prompts.py, llama.py, forced.py                what run and export are asked
check.py    what that must show; pure          cards.py, licences.py, push.py   for the hub
"""
