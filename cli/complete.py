"""Tab completion: Hydra's, after the word ``run``."""

from __future__ import annotations

import os

from cil_spl.cli import COMMANDS

# Second words that a user may want completed; everything after `run` is Hydra's.
WORDS = {
    "ls": ("methods", "models", "presets", "datasets", "targets", "experiments"),
    "data": ("describe", "fetch", "picture", "cache", "clear"),
}


def main(argv: list[str]) -> int:
    """``argv`` is Hydra's ``-sc query=bash`` and its like; the line to complete is in ``COMP_LINE``."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    fresh = line.endswith(" ") or not words
    done = words[1:] if fresh else words[1:-1]  # after `cilspl`, without the word under the cursor
    if any(word.startswith("query=") for word in argv):
        if not done:
            print(" ".join(COMMANDS))
            return 0
        if done[0] not in ("run", "validate"):
            print(" ".join(WORDS.get(done[0], ()) if len(done) == 1 else ()))
            return 0
        os.environ["COMP_LINE"] = line.replace(f" {done[0]}", "", 1)
    from cil_spl.cli.run import hydra_main

    return hydra_main(argv, program="cilspl")
