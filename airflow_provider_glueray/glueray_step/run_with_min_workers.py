"""Start the program that asks an autoscaler for CPUs, and replace this process with the command that follows.

Exit code and signals are those of the command. This file is sent as text. Python 3.9, standard library.
"""

import os
import sys
from subprocess import DEVNULL, Popen


def main() -> None:
    """Read the number of CPUs and the command from the command line."""
    cpus, *command = sys.argv[1:]
    program = os.environ["GLUERAY_REQUEST_MIN_WORKERS"]
    Popen([sys.executable, "-c", program, cpus, str(os.getpid())], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
