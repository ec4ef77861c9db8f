"""``python -m busframe.cli``: the same as ``busframe``, where the script is not on the path."""

from busframe.cli import main

main()
