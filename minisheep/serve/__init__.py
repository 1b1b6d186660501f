"""A run's model behind an OpenAI-compatible address, for other programs on this machine.

`protocol` reads requests and writes replies (pure), `desk` has one thread give them all to one engine, `endpoints` are
the ASGI application, and `worker` is the process that owns the model and the server. The run folder is only read.
"""
