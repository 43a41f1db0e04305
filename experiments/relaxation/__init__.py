"""Parts of `experiments.gradients`: the relaxation's limit, its gradients' quality, its cost.

cases.py        requests, and points at which gradients are compared
estimators.py   samples of every estimator, with their work and processor time
quality.py      how near they come to the gradient of the exact objective
totals.py       how near relaxed totals come to exact ones, and their order to that of the rules
limit.py        relaxed against exact latency as the temperature falls
cost.py         seconds and bytes of a relaxed gradient, beside an exact simulation
figures.py      the figures
"""
