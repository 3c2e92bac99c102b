"""Which version of the code this process runs."""

import hashlib
import subprocess
from pathlib import Path

import fleet
from fleet.errors import BadInput
from fleet.settings import Settings

FROM_GIT = "git"
"""What `FLEET_BUILD_ID` says where the checkout itself tells."""
CODE = ("fleet", "ratelimit", "workers", "pyproject.toml", "requirements.lock")
"""What decides what a worker does; paths from the root of the checkout. Tests, papers and the harness do not."""
COMMIT_DIGITS = 12
DIFFERENCE_DIGITS = 8
_GIT_WITHIN_S = 20.0


def build_id(settings: Settings, checkout: Path | None = None) -> str | None:
    """The version that this process's workers belong to; None where workers are not versioned.

    Args:
        settings: its `build_id`; `git` is the commit of the checkout, with a digest of what was changed in the code.
        checkout: where the code is. Default: the folder that this package was imported from.

    Raises:
        BadInput: `git`, and there is no checkout or no git.
    """
    if settings.build_id != FROM_GIT:
        return settings.build_id or None
    root = checkout or Path(fleet.__file__).resolve().parents[1]
    # an installed package may lie below somebody else's checkout
    below, commit = _git(root, "rev-parse", "--show-prefix", f"--short={COMMIT_DIGITS}", "HEAD").decode().splitlines()
    if below:
        raise _untold(root, "it is no checkout of its own")
    code = [name for name in CODE if (root / name).exists()]
    # whatever a user's configuration of git says, the same difference has the same digest
    changed = _git(root, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", "--", *code)
    strange = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *code).split(b"\0")
    if not changed and strange == [b""]:
        return commit
    digest = hashlib.sha256(changed)
    for name in sorted(filter(None, strange)):
        digest.update(b"\0" + name + b"\0" + (root / name.decode(errors="surrogateescape")).read_bytes())
    return f"{commit}-dirty-{digest.hexdigest()[:DIFFERENCE_DIGITS]}"


def _git(root: Path, *arguments: str) -> bytes:
    try:
        found = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            timeout=_GIT_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = error.strerror if isinstance(error, OSError) else "no answer in time"
        raise _untold(root, f"git: {why}") from None
    if found.returncode:
        raise _untold(root, (found.stderr.decode(errors="replace").strip().splitlines() or ["it fails"])[-1])
    return found.stdout


def _untold(root: Path, why: str) -> BadInput:
    return BadInput(f"FLEET_BUILD_ID=git: {root} tells no commit ({why}): say the version itself, as in v42")
