"""Relays: join the stores of several machines over a server.

Begin with `wire`, the contract of a connection to a server, then `memory`, the readable wire of one
process. `redis`, with `redis_scripts`, and `nats` are the wires to real servers; `choice` finds one
by the scheme of a URL. `settings` checks URLs and options, `state` is what all wires need, and
`sealing` encrypts frames with keys that rotate.

Loaded only if a layer has the option ``relay``, or by the commands for relays. Imports may go to
`policy` and below; only `layers` and `cli` import from here. Public are `wire` and `memory`.
"""
