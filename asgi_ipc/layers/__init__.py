"""Layers: the public channel layers, for asyncio and for plain synchronous code.

Begin with `core`, which does what both layers do; `aio` and `sync` are its two public faces,
`surface` what these have alike in public, and `options` checks the arguments of their constructor.
`relaying` is `core` on a store that is joined to those of other machines, with the option `relay`;
its process is a `candidate` for relaying, `shared_receivers` tells the relay of receivers, and
`local_machine` delivers what other machines send.
`dedicated_machine` serves a relay in a process of its own, and `relays` tells how a relay fares.
`inspection` tells of a store in the layers' terms: channels, groups, processes, messages; `counts`
are the layers' names for what engines count.

`asgi_ipc` itself exports the two layers, and only it, `asgi_ipc.metrics` and the command line
import from here.
"""
