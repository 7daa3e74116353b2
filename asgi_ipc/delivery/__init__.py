"""Delivery: one process's share of a store, from a pushed record to the receiver that waits for it.

Begin with `demultiplexer`, which fetches records and hands them to receivers, then `mailboxes`, the
buffers of this process's own channels. `receivers` has the bases of the listeners: `loop_listener`
(with `loop_queues`) receives in an event loop, `blocking_listener` (with `workers`) in one from an
engine that blocks, `thread_listener` in a thread; `running_loop` finds the running loop's listener.
`outages` waits for an engine's server that is away, `loopback` passes a message to the same process
without the store, `spinning` decides when to spin,
`memory_limit` bounds in bytes what is held, `suspension` takes channels on which no consumer
receives out of their groups, `leases` shares one demultiplexer among the layers on one store,
`drop_log` logs dropped messages in the words of `drop_lines`, `notes` tells other processes what
this one has counted, `store_lost` calls back once the store was flushed or replaced.

`layers` imports from here; modules here import only `encoding`, `engines` and `exceptions`, and
`policy` if need be.
"""
