"""Tuning on simulated instances: `jaxsched tune` (see docs/tuning.md).

config.py       what a configuration file may say
space.py        the coordinates that are searched: of a few numbers, or of the weights of a network
problem.py      fresh instances, and the score of candidates on them, with the hard simulator
estimators.py   gradients of the score: from pairs of candidates, or of the relaxation
methods.py      an optax optimizer that follows one; random search, a grid and CMA-ES
loop.py         runs a method: validation, the best kept, checkpoints
rules.py        from the best coordinates to a readable rule in a file
search.py       all of it
"""
