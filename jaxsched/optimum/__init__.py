"""The other side of a result: the best schedule in hindsight, and how good one could be at most."""
