"""The harness's generation options as our `Sampling`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minisheep.engines.base import Sampling

NEW_TOKENS = 256
"""Where a task does not say how long an answer may be, as in the harness's own back-ends."""


def sampling(options: Mapping[str, Any], stop: tuple[str, ...] = (), most: int = 0) -> Sampling:
    """How a request is drawn. `stop` are the frame's own stop strings; `most` above 0 limits the new tokens.

    Without ``do_sample`` a temperature above 0 means sampling; ``do_sample: false`` is greedy at any temperature.
    """
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    temperature = options.get("temperature")
    drawn = options.get("do_sample", bool(temperature))
    wanted = next((options[n] for n in ("max_gen_toks", "max_new_tokens", "max_tokens") if options.get(n)), NEW_TOKENS)
    tokens = min(int(wanted), most) if most else int(wanted)
    return Sampling(
        temperature=(1.0 if temperature is None else float(temperature)) if drawn else 0.0,
        top_p=float(options.get("top_p") or 1.0),
        top_k=int(options.get("top_k") or Sampling().top_k),
        max_tokens=tokens,
        stop=tuple(dict.fromkeys(text for text in (*until, *stop) if text)),
    )
