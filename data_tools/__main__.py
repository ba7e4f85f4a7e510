"""List the commands of this folder, or run one of them.

    python -m data_tools                        all commands, a line each
    python -m data_tools learn_video --help     the same as python -m data_tools.learn_video --help

Read next: minilstm/__main__.py, which does it.
"""

import sys

from minilstm.__main__ import main

if __name__ == "__main__":
    sys.exit(main(package="data_tools"))
