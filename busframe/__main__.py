"""``python -m busframe`` is ``busframe``."""

from busframe.cli import main

main()
