"""The hub, the model's file, and whether inference and training mean the same model by the same words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from minisheep.doctor.result import Facts, Result, broken, fail, ok, skipped, warn
from minisheep.errors import MinisheepError

CLOSE, ALIKE = 0.3, 1.0
"""Mean absolute difference of log-probabilities, in nats per token, between llama.cpp and the training weights: 4-bit
formats stay below the first; another model is beyond the second."""


def check(facts: Mapping[str, Facts], missing: MinisheepError | None, name: str) -> Iterator[Result]:
    yield hub(facts.get("hub", {"unasked": "not asked"}))
    yield file(facts.get("file"), missing, name)
    yield template(facts.get("file"), facts.get("generate"), facts.get("weights"))
    yield agreement(facts.get("generate"), facts.get("weights"))


def hub(facts: Facts) -> Result:
    cached = "Models in the cache work all the same; `minisheep pull MODEL` fetches one while there is a network."
    if "unasked" in facts:
        return skipped("hub", facts["unasked"])
    if facts.get("error"):
        return warn("hub", f"its client does not work: {facts['error']}", cached)
    if facts["offline"]:
        return skipped("hub", "offline, as was asked: only what is in the cache can be used")
    if facts["status"] == 200:
        return ok("hub", "it answers")
    why = facts["reason"] or f"status {facts['status']}"
    return warn("hub", f"it cannot be reached ({why})", f"{cached} A mirror or proxy: HF_ENDPOINT, HTTPS_PROXY.")


def file(facts: Facts | None, missing: MinisheepError | None, name: str) -> Result:
    if missing is not None:
        if missing.__class__.__name__ == "DownloadError":
            return skipped("model file", f"{name} is not here: {missing.message}", f"minisheep pull {name}")
        return fail("model file", missing.message, missing.fix)
    if facts is None or "unasked" in facts:
        return skipped("model file", (facts or {}).get("unasked", "no model"))
    if facts.get("error"):
        return broken("model file", facts["error"], facts, "")
    told = f"{facts['name']}, {facts['bytes'] / 1e6:.0f} MB, SHA-256 {facts['sha256'][:16]}..."
    if facts["again"] and facts["again"] != facts["sha256"]:
        return fail("model file", f"{told}, but reading it again gives {facts['again'][:16]}...", f"rm {facts['path']}")
    return ok("model file", f"{told}, {'read again and right' if facts['again'] else 'as when it was read last'}")


def template(file: Facts | None, generate: Facts | None, weights: Facts | None) -> Result:
    """The same ids on both sides; and the file's own template the one that the weights were published with."""
    name = "chat template"
    if not (_usable(file) and _usable(generate) and _usable(weights)):
        return skipped(name, _unusable(file, generate, weights))
    assert file is not None and generate is not None and weights is not None
    if (generate["prompt"], generate["ids"]) != (weights["prompt"], weights["ids"]):
        at = next((i for i, (a, b) in enumerate(zip(generate["ids"], weights["ids"], strict=False)) if a != b), None)
        where = f"from token {at + 1} on" if at is not None else "in length"
        return fail(name, f"inference and training see other tokens, {where}", "Report it, with the output of --json.")
    told = f"{file['template']}: the same {len(generate['ids'])} tokens in inference and training"
    own, published = file["templates"]["gguf"], file["templates"]["weights"]
    if own and published and own != published:
        return warn(
            name,
            f"{told}; but the weights' own template differs from the GGUF's, which counts here",
            "--template chatml or llama-3 chooses one by name.",
        )
    beside = "" if published else "; the training weights bring no template of their own"
    return ok(name, told + (", equal to the weights' own" if own and published else beside))


def agreement(generate: Facts | None, weights: Facts | None) -> Result:
    """llama.cpp's log-probabilities of a given answer beside those of the weights that are trained."""
    name = "GGUF and weights"
    if not (_usable(generate) and _usable(weights)):
        return skipped(name, _unusable(generate, weights))
    assert generate is not None and weights is not None
    if len(generate["logprobs"]) != len(weights["logprobs"]):
        return fail(name, "they tokenise the same answer differently", "Give a GGUF and weights of the same model.")
    apart = distance(generate["logprobs"], weights["logprobs"])
    told = f"{apart:.3f} nats per token apart over {len(weights['logprobs'])} tokens"
    told += " (weights made from the GGUF)" if weights["note"] else ""
    # Said so that a difference that is no number passes neither.
    if not apart <= ALIKE:
        return fail(name, f"{told}: another model", "Give --gguf and --weights of the same model.", nats=apart)
    if not apart <= CLOSE:
        return warn(name, f"{told}: a coarse quantisation, or another revision", "Take a larger quant.", nats=apart)
    return ok(name, told, nats=round(apart, 4))


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference; 0 for none."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one) if one else 0.0


def _usable(facts: Facts | None) -> bool:
    return facts is not None and "unasked" not in facts and not facts.get("error")


def _unusable(*sides: Facts | None) -> str:
    """Why not all sides can be compared: the reason of the first that was not asked, or gave no answer."""
    reasons = [(facts or {}).get("unasked") or (facts or {}).get("error") for facts in sides if not _usable(facts)]
    return f"a side of it was not asked: {reasons[0] or 'no model'}"
