"""A model's own folder (config.json, safetensors, tokenizer.json) as a GGUF that llama.cpp computes the same with.

`convert.convert` is the whole of it. What cannot be said in a GGUF, or what llama.cpp would compute or tokenise
otherwise than transformers, is refused by name: a file that loads and is another model would be worse than none.
"""
