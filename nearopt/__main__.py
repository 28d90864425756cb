"""`python -m nearopt`: the same as the command `nearopt`."""

import sys

from nearopt.commands import main

sys.exit(main())
