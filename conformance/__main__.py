"""Run the conformance suite from anywhere: ``python -m asgi_ipc.conformance``."""

from __future__ import annotations

import sys
from pathlib import Path

USAGE = """\
usage: python -m asgi_ipc.conformance [MODULE ...] [OPTION ...]

Run the conformance suite on engines and wires: all that are registered here, or those that --engine
and --wire name.

  MODULE                  run one module of the suite alone, such as test_segment
  --engine NAME-OR-PATH   test this engine: a registered name or 'package.module:Class'; may be
                          repeated
  --engine-option K=V     pass this option to the engine; V is a Python literal, or else a string
  --engine-proxy OPTION   the engine option that has HOST:PORT of the engine's server: tests of
                          outages put a proxy between the two
  --wire NAME-OR-PATH     test this wire of a relay: the scheme of its URLs or
                          'package.module:Class'; may be repeated
  --wire-url URL          test it on this server, at the TCP port that the URL names; those of
                          asgi_ipc start one if it is installed
  --wire-option K=V       pass this option to the wire
  --clause E4             run the tests that cite this clause alone; may be repeated

All other options are pytest's: -n auto runs the tests in parallel, -k WORD selects some,
-x stops at the first failure, -rs says why tests were skipped.
"""


def arguments(words: list[str]) -> list[str]:
    """Return pytest's arguments for the words of a command line.

    Words in front of the first option name modules of the suite. Raises `SystemExit` for a
    module that the suite does not have.
    """
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    named, options = words[:first], words[first:]
    here = Path(__file__).parent
    known = {
        path.stem: ".".join(path.relative_to(here).with_suffix("").parts)
        for path in sorted(here.rglob("test_*.py"))
    }
    unknown = [name for name in named if name not in known]
    if unknown:
        sys.exit(
            f"the conformance suite has no module {unknown[0]!r}; name one of"
            f" {', '.join(sorted(known))}, and pytest's options behind it"
        )
    suite = [f"{__package__}.{known[name]}" for name in named] or [str(__package__)]
    # The suite runs its event loops itself, and pytest-asyncio would warn that it is not set up.
    plugins = ["-p", f"{__package__}.plugin", "-p", "no:asyncio"]
    return [*plugins, "--pyargs", *suite, *options]


def main() -> int:
    """Run it. Returns pytest's exit code; 2 if pytest is not installed."""
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        print(USAGE, end="")  # noqa: T201
        return 0
    try:
        import pytest
    except ImportError:
        print(  # noqa: T201
            "the conformance suite needs pytest: pip install 'asgi_ipc[test]>=2'", file=sys.stderr
        )
        return 2
    return int(pytest.main(arguments(words)))


if __name__ == "__main__":
    sys.exit(main())
