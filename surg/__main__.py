"""The `surg` command, and `python -m surg`: Ctrl-C is answered from here on, while the parts are still imported."""

import sys


def run() -> None:
    try:
        from surg.cli.main import run as start
    except KeyboardInterrupt:
        sys.exit(130)
    start()


if __name__ == "__main__":
    run()
