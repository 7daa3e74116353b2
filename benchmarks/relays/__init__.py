"""What relays cost, and how fast they are, beside layers that always pass a server.

``make bench-relays``, or ``python -m benchmarks.relays --help``. *Machines* are stores in folders
of their own, each with a relay, over one Redis server on a UNIX socket; channels_redis has the same
processes and the same server. `machines` opens layers on a machine, `questions` has what is asked,
`targets` what was to be reached. `paper` computes from the answers what up to 50 machines would
cost.
"""
