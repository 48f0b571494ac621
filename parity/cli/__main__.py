"""`python -m parity.cli`."""

from . import main

main()
