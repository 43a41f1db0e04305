"""Questions to the worker of a serving engine, one command each; docs/engine.md answers.

The last one is in docs/tuning.md.

common.py      requests, streams and what is measured
prediction.py  does it help to predict lengths, on both workers?
victims.py     whom to preempt?
costs.py       what do blocks, the token budget and the cap on running requests cost?
stability.py   the largest rate that memory allows, against simulation
tuned.py       how good are rules that were tuned for it, on requests that no tuning saw?
"""
