"""How good could it get: the best schedule in hindsight, a proof that it is, and bounds.

    lane       one instance as arrays; its schedules, and prices that bound it
    solve      `optimal`: branch and bound, for some 20 requests
    plan       `best_schedule` and the bounds, for thousands of requests and lanes
    profile    compiled: where a request fits, and what an order of requests makes
    anneal     compiled: better orders
    prices     compiled: bounds from prices of memory
    paths      compiled: bounds from what memory in use and active requests can do together
    branch     compiled: the search of `optimal`

Everything here counts rounds, and needs numba. docs/optimum.md has the proofs.
"""

from jaxsched.optimum.plan import BestSchedule, best_schedule, bounds_of, planned
from jaxsched.optimum.solve import Optimum, optimal

__all__ = ["BestSchedule", "Optimum", "best_schedule", "bounds_of", "optimal", "planned"]
