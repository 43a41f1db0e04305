"""Stand-ins for LMSYS-Chat-1M and ShareGPT, made from summary figures; nothing to download.

Only quantiles, means, a rank correlation and a table of counts are kept here, never requests.
Each function names where its figures come from.
"""

from __future__ import annotations

import numpy as np

from jaxsched.workloads import intervals
from jaxsched.workloads.lengths import Lengths, MarginalLengths
from jaxsched.workloads.marginals import Marginal

# fmt: off
LEVELS = (
    0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.175, 0.2,
    0.225, 0.25, 0.275, 0.3, 0.325, 0.35, 0.375, 0.4, 0.425, 0.45, 0.475, 0.5, 0.525, 0.55, 0.575,
    0.6, 0.625, 0.65, 0.675, 0.7, 0.725, 0.75, 0.775, 0.8, 0.825, 0.85, 0.875, 0.9, 0.92, 0.94,
    0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.9975, 0.999, 1,
)
"""Probabilities of the three measured quantile tables below."""

SHAREGPT_PROMPT = (
    1, 2, 2, 2, 2, 3, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21, 23, 24, 26, 29, 32,
    35, 39, 44, 49, 55, 64, 74, 86, 101, 117, 143, 177, 229, 308, 404, 547, 761, 1006, 1254, 1423,
    1641, 1947, 2306, 2595, 2862, 3284, 3473, 3711, 3973,
)

SHAREGPT_OUTPUT = (
    3, 5, 7, 7, 10, 12, 13, 17, 23, 27, 35, 43, 58, 75, 93, 106, 120, 136, 150, 167, 185, 201, 216,
    232, 248, 260, 273, 286, 299, 314, 327, 341, 357, 371, 389, 405, 424, 446, 472, 502, 533, 571,
    615, 681, 736, 799, 839, 878, 920, 953, 970, 1000, 1044, 1073, 1125, 1734,
)

LMSYS_OUTPUT = (
    2, 2, 2, 2, 2, 2, 3, 5, 9, 10, 10, 13, 16, 21, 25, 31, 36, 41, 48, 57, 66, 75, 85, 95, 105, 117,
    128, 140, 154, 170, 186, 201, 217, 233, 248, 263, 279, 294, 309, 325, 340, 358, 376, 397, 414,
    436, 447, 459, 472, 487, 495, 502, 509, 511, 511, 511,
)

LMSYS_PROMPT_LEVELS = (
    0, 0.1111, 0.1956, 0.3007, 0.4122, 0.511, 0.5734, 0.6086, 0.6565, 0.728, 0.828, 0.8633, 0.9305,
    0.9579, 0.9764, 0.9859, 0.9942, 0.9975, 0.9994, 1,
)
LMSYS_PROMPT = (
    1, 4, 8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288,
    15872,
)

CLASS_EDGES = (0, 42, 141, 294, 503, 512)
"""Classes of output tokens of arXiv 2404.08509: [0, 42) [42, 141) [141, 294) [294, 503) [503, …).

The last class is open there; here it ends at 511, the longest output in its data.
"""

CLASS_COUNTS = (
    (17290, 3290, 648, 355, 90),
    (3273, 11969, 4095, 1605, 204),
    (643, 4582, 9680, 5855, 454),
    (275, 1450, 5266, 12148, 1466),
    (14, 45, 133, 447, 205),
)
"""How often class j (column) was predicted for an output of class i (row)."""
# fmt: on


def sharegpt() -> Lengths:
    """ShareGPT in Llama-2 tokens: measured quantiles of prompt and output, and their correlation.

    From the 10,000 token counts published with AKafakA/vidur_opt_scheduler (MIT): prompt mean
    245.8, median 35, at most 3,973; output mean 325.6, median 286, at most 1,734; Spearman's rho
    0.138, by a Gaussian copula. Between quantiles ln Q is linear. There no request has more than
    4,030 tokens in all; here that holds after `.truncated(max_total=4030)`.
    """
    prompt = Marginal.from_quantiles(LEVELS, SHAREGPT_PROMPT)
    output = Marginal.from_quantiles(LEVELS, SHAREGPT_OUTPUT)
    return MarginalLengths(prompt, output, rank_correlation=0.138)


def lmsys() -> Lengths:
    """LMSYS-Chat-1M in words: log-normal prompt and output with the published means and medians.

    Prompt mean 40.62, median 11; output mean 85.32, median 45 (the sample of arXiv 2502.07115,
    which counts words as tokens). Rounded to the nearest token, at least 1. The tails end at a
    prompt of 12,288 and an output of 4,096 (the laws are conditioned on that, which lowers the
    means by 0.3 and 0.2 %), so that a request never exceeds the 16,492 tokens of that paper. No
    correlation was published; the two are independent.
    """
    prompt = Marginal.log_normal(40.62, 11, maximum=12288)
    return MarginalLengths(prompt, Marginal.log_normal(85.32, 45, maximum=4096))


def lmsys_tokens() -> Lengths:
    """LMSYS-Chat-1M in tokens: about ten times the prompts and twice the outputs of `lmsys`.

    Outputs: quantiles of the 85,482 true lengths (vicuna-13b, at most 511; mean 176.8, median 140)
    published with arXiv 2404.08509 (James-QiuHaoran/LLM-serving-with-proxy-models, Apache-2.0).
    Prompts: fitted, so that prompt + output follows the cumulative distribution of total tokens
    of LMSYS requests in vllm-project/semantic-router (Apache-2.0), up to 16,384 tokens; it is met
    within 0.2 %. Their mean is then 470, which agrees with the 462 quoted for the Llama-2
    tokenizer. (A log-normal with the mean 462 and deviation 657 quoted there misses that
    distribution by up to 17 %: it has hardly any of the short prompts.) Independent.
    """
    prompt = Marginal.from_quantiles(LMSYS_PROMPT_LEVELS, LMSYS_PROMPT)
    return MarginalLengths(prompt, Marginal.from_quantiles(LEVELS, LMSYS_OUTPUT))


def real_predictions() -> intervals.IntervalSource:
    """Intervals as wrong as a real predictor's: a class drawn given the class of the true length.

    How often a BERT proxy predicted class j for an LMSYS-Chat-1M output of class i (85,482
    requests, arXiv 2404.08509, Apache-2.0). With the outputs of `lmsys_tokens` the truth lies in
    the predicted class for 60 %, below it for 21 % and above it for 19 % of the requests. The
    last class is [503, 511] as predicted; outputs beyond 511 belong to it. What the predictor
    knows within a class is not kept.
    """
    return intervals.confusion(CLASS_EDGES, np.asarray(CLASS_COUNTS))
