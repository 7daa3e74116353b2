"""Relays: join the stores of several machines over a server.

Begin with `wire`, the contract of a connection to a server, then `memory`, the readable wire of one
process. `choice` finds a wire by the scheme of a URL, `settings` checks URLs and options, and
`state` tells everybody that a wire is lost.

Loaded only if a layer has the option ``relay``, or by the commands for relays. Imports may go to
`policy` and below; only `layers` and `cli` import from here. Public are `wire` and `memory`.
"""
