"""Tuning on simulated instances: `jaxsched tune` (see docs/tuning.md).

config.py       what a configuration file may say
space.py        the coordinates that are searched: ten numbers on a bounded, bent scale
network_space.py  the same for the weights of a network
problem.py      fresh instances, and the score of candidates on them, with the hard simulator
gradient.py     what an estimator is, and the gradient from antithetic pairs of candidates
estimators.py   gradients of the score: evolution strategies and, by name, those of relaxed.py
relaxed.py      estimators that differentiate the relaxation
descent.py      an optax optimizer that follows an estimator
baselines.py    random search, a grid, CMA-ES
loop.py         runs a method: validation, the best kept, checkpoints
rules.py        from the best coordinates to a readable rule in a file
report.py       table and figure
"""
