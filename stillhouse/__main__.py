"""``python -m stillhouse``, which is also what ``accelerate launch -m stillhouse …`` starts."""

import sys

from stillhouse.cli import main

sys.exit(main())
