"""Whatever a store may suffer, done to it thoroughly: ``python -m tests.torture --help``.

`stress` harasses layers from within their processes, `soak` kills and stops processes at
work, `kill` and `prefixes` end an operation at every point and look what is left, `damage`
spoils the memory, and `plants` are bugs which show that these would find some.
"""
