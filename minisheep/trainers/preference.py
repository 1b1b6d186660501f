"""Losses that learn from a better and a worse answer to one prompt: ORPO and DPO. Pure functions of likelihoods.

orpo    L = NLL of the better answer, in nats per token, + beta * -log sigmoid(log odds), where odds(y) = p / (1 - p)
        and log p is the mean log-probability of a token of y (Hong et al., arXiv 2403.07691, equations 4 to 7). An
        example without a worse answer counts by its NLL alone.
dpo     L = -log sigmoid(beta * ((log p(better) - log q(better)) - (log p(worse) - log q(worse)))), where log p and
        log q are the sums over an answer's tokens under the model and under its base (Rafailov et al., arXiv
        2305.18290, equation 7). The base is the same model with its adapter switched off.

Only tokens of answers count, as in a training by likelihood. The NLL is a mean over a batch's tokens, the other terms
are means over its examples: where each has a worse answer, as TRL has it. Dropout is off: a mask of its own for each of
the two answers would be noise in their difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid

from minisheep.trainers.base import TokenPair

HIGHEST = -1e-6
"""Of a mean log-probability: at 0 an answer would be certain, and its odds infinite."""


def odds_ratio_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log sigmoid of the log odds ratio; mean log-probabilities per token in, [pairs] each, nats out."""
    chosen, rejected = chosen.clamp(max=HIGHEST), rejected.clamp(max=HIGHEST)
    log_odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
    return -logsigmoid(log_odds)


def dpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, base_chosen: torch.Tensor, base_rejected: torch.Tensor, beta: float
) -> torch.Tensor:
    """DPO's loss of each pair from summed log-probabilities, [pairs] each, nats out."""
    return -logsigmoid(beta * ((chosen - base_chosen) - (rejected - base_rejected)))


def _log_of_rest(logp: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(logp)) for negative numbers."""
    return torch.log(-torch.expm1(logp))


class Portion(NamedTuple):
    """What a whole batch holds. The loss of a part is a share of the batch's, so that micro-batches change nothing."""

    tokens: int
    """Supervised tokens of the better answers."""
    examples: int

    @classmethod
    def of(cls, batch: Sequence[TokenPair]) -> Portion:
        return cls(sum(pair.supervised for pair in batch), len(batch))


def sequences(micro: Sequence[TokenPair]) -> list[TokenPair]:
    """The better answers of a micro-batch, then the worse ones; what `preference_loss` takes the likelihoods of."""
    return [*micro, *(worse for pair in micro if (worse := pair.rejected) is not None)]


def preference_loss(
    loss: str, beta: float, micro: Sequence[TokenPair], nll: torch.Tensor, base_nll: torch.Tensor | None, whole: Portion
) -> torch.Tensor:
    """The share of the micro-batch `micro` in the loss of a batch; a scalar.

    `nll` and `base_nll` are the summed negative log-likelihoods of `sequences(micro)`, of the model and, for ``dpo``,
    of its base. An example without a worse answer has nothing for ``dpo`` to learn.
    """
    paired = torch.tensor([i for i, pair in enumerate(micro) if pair.worse], dtype=torch.long, device=nll.device)
    after = len(micro)
    if loss == "dpo":
        assert base_nll is not None
        each = dpo_loss(-nll[paired], -nll[after:], -base_nll[paired], -base_nll[after:], beta)
        return each.sum() / whole.examples
    lengths = torch.tensor([pair.supervised for pair in sequences(micro)], device=nll.device)
    means = -nll / lengths
    odds = odds_ratio_loss(means[paired], means[after:])
    return nll[:after].sum() / whole.tokens + beta * odds.sum() / whole.examples
