"""`python -m load.simulators`: serve every simulated provider until SIGTERM."""

import argparse
import asyncio
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from load.simulators.options import Options, OptionsError
from load.simulators.server import Serving, serve


def main() -> int:
    """Returns 2 for options that are not accepted or a port that is taken."""
    parser = argparse.ArgumentParser(prog="python -m load.simulators", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=0, help="HTTP port; 0: any free one")
    parser.add_argument("--smtp-port", type=int, default=0, help="SMTP port; 0: any free one")
    parser.add_argument("--maildir", type=Path, help="where accepted mail is filed (default: a temporary folder)")
    parser.add_argument("--options", type=Path, help="JSON file: quotas, keys, latency, faults")
    parser.add_argument("--ledger-file", type=Path, help="append every request to this file, one JSON object a line")
    parser.add_argument("--ready-file", type=Path, help="written with the addresses once both servers listen")
    asked = parser.parse_args()
    try:
        serving = Serving(
            options=Options.read(asked.options),
            host=asked.host,
            port=asked.port,
            smtp_port=asked.smtp_port,
            maildir=asked.maildir or Path(tempfile.mkdtemp(prefix="fleet-mail-")) / "Maildir",
            ledger_file=asked.ledger_file,
            ready_file=asked.ready_file,
        )
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(serving))
    except (OptionsError, OSError) as error:
        print(f"simulators: {error}", file=sys.stderr)  # noqa: T201 - the program's answer
        return 2
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: it serves about a tenth more."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    from uvloop import new_event_loop

    return new_event_loop


if __name__ == "__main__":
    sys.exit(main())
