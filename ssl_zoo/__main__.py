"""The entry point of ``ssl-zoo`` and of ``python -m ssl_zoo``, which torchrun starts."""

from ssl_zoo.cli.interrupts import end_on_stop_signal


def main() -> None:
    """Run the command line, and end with one line also if a signal comes while it is imported."""
    with end_on_stop_signal():
        from ssl_zoo.cli.app import main

        main()


if __name__ == "__main__":
    main()
