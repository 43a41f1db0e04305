"""`python -m jaxsched` is the command `jaxsched`."""

import sys

from jaxsched.cli import main

sys.exit(main())
