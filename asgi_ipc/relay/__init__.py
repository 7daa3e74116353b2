"""Relays: join the stores of several machines over a server.

Begin with `wire`, the contract of a connection to a server, then `memory`, the readable wire of one
process. `redis`, with `resp` and `redis_scripts`, and `nats` are the wires to real servers;
`choice` finds one by the scheme of a URL. `settings` checks URLs and options, `state` is what all
wires need, and `sealing` encrypts frames with keys that rotate.

Above the wires: `relay` has the clauses that users rely on. It runs in a `thread` with a `loop` of
which forked children keep nothing, or a process of its own, with the `options` and for the
`machine` that it gets; `agreement` compares these options with those of the site's processes.
`outbound` publishes the `frames` of what processes left on the `way_out` of
the store, for which a `store_bell` is rung; `inbound` delivers those of other machines, of which
`peers` keeps the sequences and, with keys, asks for proof; `shards` are what this machine
hears, `work` is what lies on the server for any of them, and `flushes` wait for other machines.
`counts` become the `report` that the next relay, and people, read, as the `report_writer` writes
it. `failures` are errors that no relay should meet, and `texts` what others say, as people may see
it.

Loaded only if a layer has the option ``relay``, or by the commands for relays. Imports may go to
`policy` and below; only `layers` and `cli` import from here. Public are `wire` and `memory`.
"""
