"""Relays: join the stores of several machines over a server.

Begin with `wire`, the contract of a connection to a server, then `memory`, the readable wire of one
process. `redis`, with `resp` and `redis_scripts`, and `nats` are the wires to real servers.
`wire_choice` finds one by the scheme of a URL, `wire_settings` checks its URL and options, and
`wire_state` is what all wires need.

Above the wires, `relay` has the clauses that users rely on, and is one term of a relay. A `thread`
runs it with a `loop` of which forked children keep nothing, or it has a process of its own. It gets
`options`, and the `machine` that it relays for; `agreement` compares its options with those of the
site's processes. `ending` ends what it does side by side.

`outbound` publishes what processes have left on the `way_out` of the store, for which a
`store_bell` rings, as `frames`, which `sealing` encrypts. `inbound` delivers those of other
machines; `peers` keeps the sequences of these machines and, with keys, asks them for proof.
`shards` are what this machine hears, `work` is what lies on the server for any machine, and
`flushes` are those of all machines. `counts` become the `report`, which the `report_writer` writes
for the next relay and for people. `failures` are errors that no relay should meet, and `texts`
makes what others say printable.

Loaded only if a layer has the option ``relay``, or by the commands for relays. Imports may go to
`policy` and below; only `layers` and `cli` import from here. Public are `wire` and `memory`.
"""
