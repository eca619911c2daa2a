"""A command of ours that runs for another one. Started with `process_group=0`, it hears of Ctrl-C once, from here."""

import signal
import subprocess


def interrupt(process: "subprocess.Popen[str]") -> None:
    """Let it end as on Ctrl-C, with the time to keep what it has and to clean up. A second Ctrl-C is passed on too."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate()
    except KeyboardInterrupt:
        interrupt(process)
