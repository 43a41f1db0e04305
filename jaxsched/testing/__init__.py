"""For people who add policies or engines: adversarial instances, and tests to run on them."""

from jaxsched.testing.comparison import check_result, requests_of
from jaxsched.testing.contract import check_policy
from jaxsched.testing.instances import (
    KINDS,
    as_arrays,
    in_whole_blocks,
    random_requests,
    random_worker,
)

__all__ = [
    "KINDS", "as_arrays", "check_policy", "check_result", "in_whole_blocks", "random_requests",
    "random_worker", "requests_of",
]  # fmt: skip
