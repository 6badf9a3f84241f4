"""The entry point of ``python -m ssl_zoo``, which torchrun starts."""

from ssl_zoo.cli.app import main

if __name__ == "__main__":
    main()
