"""Runs suites that others wrote for channel layers and for what stands on them, on our layer.

`make compat` fetches each from the package index at the release that `suites` names, and runs it in
an environment of its own. Nothing of theirs is kept here. `suites` lists every test that our layer
does not pass, and why. A test that fails without being listed fails the run; so does a listed one
that passes, or is no longer there.
"""
