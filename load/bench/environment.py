"""The interpreter of the peers: an environment of their own inside the project's."""

import asyncio
import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
WANTED = HERE / "peers.txt"
BARE = "litellm==1.109.1"
"""Only its script is read: what it depends on is not installed."""
ROOT = HERE.parent.parent
LONGEST_S = 600.0


class NotInstalled(Exception):
    """The environment could not be made; the message says why."""


def _folder() -> Path:
    # another list of versions is another environment
    listed = hashlib.sha256(WANTED.read_bytes() + BARE.encode()).hexdigest()[:12]
    return Path(sys.prefix) / f"bench-peers-{listed}"


async def interpreter() -> str:
    """The path of its interpreter; the first call installs, which takes about half a minute.

    Raises:
        NotInstalled: a package index did not answer, or refused.
    """
    folder = _folder()
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        await _run(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
        await _run(*pip, "-r", str(WANTED))
        await _run(*pip, "--no-deps", BARE)
        done.touch()
    return str(python)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LONGEST_S):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NotInstalled(f"installing took longer than {LONGEST_S:g} s") from None
    if process.returncode:
        lines = [line for line in said.decode(errors="replace").splitlines() if line.startswith("ERROR")]
        raise NotInstalled(lines[-1] if lines else f"{Path(command[0]).name} ended with {process.returncode}")
