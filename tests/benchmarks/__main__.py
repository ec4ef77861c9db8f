"""``python -m tests.benchmarks [NAME …]``: those that are named, or all but the one that takes a quarter of an hour."""

import sys
from importlib import import_module

NAMES = ("imports", "dispatch", "rabbitmq", "kafka", "nats")
LONG = ("endurance",)


def main(names: list[str]) -> None:
    """Run the named ones, or all that are short."""
    unknown = [name for name in names if name not in NAMES + LONG]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}: there are {', '.join(NAMES + LONG)}")
    for name in names or NAMES:
        import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
